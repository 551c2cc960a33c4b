"""What the brokers and their clients can do at all: bare loops, each a program that prints how long it took."""
