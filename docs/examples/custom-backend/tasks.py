"""Handlers of a service whose queues are folders."""

from qbridge import HandlerRegistry

registry = HandlerRegistry()


@registry.task
async def greet(name: str) -> None:
    """Say hello."""
    print(f"hello {name}", flush=True)


@registry.task
async def count_words(text: str) -> None:
    """Count the words of a dropped file."""
    print(f"{len(text.split())} words", flush=True)
