"""RabbitServer: a real RabbitMQ of one's own, for tests that stop, kill, freeze and restart it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tests.support.stopped import wait_until_stopped

if TYPE_CHECKING:  # whoever needs no certificates needs not what makes them
    from tests.support.certificates import Authority, Certificate

__all__ = ["RabbitServer", "rabbitmq_server_is_installed"]

#: Seconds that a server may take to start, or to stop when asked, and that rabbitmqctl may take.
_PATIENCE = 40.0

#: Debian's programs in /usr/sbin change the user, the folder and the home: these are what they call.
_PROGRAMS = Path("/usr/lib/rabbitmq/bin")

#: The folder of another system whose server is run, by chroot; `make test-brokers` sets the variable.
_ROOT = os.environ.get("QBRIDGE_TEST_RABBITMQ_ROOT", "")

_GREETING = b"AMQP\x00\x00\x09\x01"

#: No plugin, no statistics, small pools: it shares the machine with the tests.
_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
num_acceptors.tcp = 2
loopback_users = none
log.console = false
log.file = server.log
log.file.level = info
management_agent.disable_metrics_collector = true
disk_free_limit.absolute = 1MB
"""

_TLS = """\
listeners.ssl.1 = 127.0.0.1:{port}
num_acceptors.ssl = 2
ssl_options.cacertfile = {folder}/authority.pem
ssl_options.certfile = {folder}/server.pem
ssl_options.keyfile = {folder}/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = {wants}
"""


def rabbitmq_server_is_installed() -> bool:
    """Return whether the programs that `RabbitServer` runs are there."""
    return _program("rabbitmq-server") is not None and _program("rabbitmqctl") is not None


class RabbitServer:
    """One RabbitMQ node on free ports of the loopback interface, with its files in a temporary folder.

    As a context manager it is started on entry, which takes about five seconds; on exit it is stopped and its files
    are removed. In between it may be stopped, killed and started again, always on the same port and with the same
    files. Every method blocks until what it does is done, and may be called when it is done already. The port mapper
    of Erlang that it needs is its own too, and ends with it.

    Args:
        configuration: More lines of its configuration file.
        tls: The certificate with which it speaks TLS on another port, and the authority whose clients it trusts.
        wants_client_certificates: Refuse clients on that port that show none.
    """

    def __init__(
        self,
        *,
        configuration: str = "",
        tls: tuple[Certificate, Authority] | None = None,
        wants_client_certificates: bool = False,
    ) -> None:
        self.port = _free_port()
        self.tls_port = _free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="qbridge-rabbitmq-"))
        self._process: subprocess.Popen[bytes] | None = None
        mapper_port = _free_port()
        if tls is not None:
            self._copy(tls[0])
            shutil.copy(tls[1].file, self._folder / "authority.pem")
            wants = str(wants_client_certificates).lower()
            configuration += _TLS.format(port=self.tls_port, folder=self._folder, wants=wants)
        (self._folder / "rabbitmq.conf").write_text(_CONFIGURATION.format(port=self.port) + configuration)
        (self._folder / "enabled_plugins").write_text("[].\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self._folder),  # where the cookie is
            "ERL_EPMD_PORT": str(mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(_free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_NODENAME": f"qbridge{self.port}@localhost",
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            # What `list_queues` tells of a quorum queue is as old as its latest tick: 5 s without the last argument.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none "
            "-rabbit quorum_tick_interval 500",
        }

    def __enter__(self) -> RabbitServer:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def url(self) -> str:
        """The URL of its virtual host `/`, with the credentials that every new server has."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def tls_url(self) -> str:
        """The same over TLS, if it speaks that."""
        return f"amqps://guest:guest@127.0.0.1:{self.tls_port}/"

    @property
    def log(self) -> str:
        """What it has logged."""
        path = self._folder / "log" / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """The number of the process of its virtual machine."""
        return int((self._folder / "pid").read_text())

    @property
    def is_running(self) -> bool:
        """Whether its process exists, be it frozen."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if self.is_running:
            return
        # A process group of its own: the start script leaves helpers of the virtual machine behind when it is killed.
        with (self._folder / "errors").open("ab") as errors:
            self._process = subprocess.Popen(
                _command("rabbitmq-server"),
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            has_ended = self._process.poll() is not None
            if has_ended or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"rabbitmq-server did not start on port {self.port}:\n{self._complaints()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask it to end, as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, like a crash; also when it is frozen."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let it hang: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)
        wait_until_stopped(self.pid)

    def thaw(self) -> None:
        """Let it go on after `freeze()`."""
        if self.is_running:
            self._signal(signal.SIGCONT)

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl with these arguments, which takes one or two seconds; return what it prints.

        Raises:
            RuntimeError: It fails.
        """
        done = subprocess.run(
            [*_command("rabbitmqctl"), "--quiet", *arguments],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"rabbitmqctl {arguments!r} failed: {(done.stdout + done.stderr).decode()}")
        return done.stdout.decode()

    def change_certificate(self, certificate: Certificate) -> None:
        """Show this certificate to whoever connects with TLS from here on."""
        self._copy(certificate)
        self.ctl("eval", "ssl:clear_pem_cache().")

    def remove(self) -> None:
        """End it and its port mapper, and delete its files."""
        if self.is_running:
            self.thaw()
            self.stop()
        self._end_mapper()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _copy(self, certificate: Certificate) -> None:
        shutil.copy(certificate.chain, self._folder / "server.pem")
        shutil.copy(certificate.key, self._folder / "server.key")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.settimeout(2)
                connection.sendall(_GREETING)
                return connection.recv(1) == b"\x01"  # a method frame: Connection.Start
        except OSError:
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        if how is signal.SIGKILL:
            self._signal(how)
        else:
            os.kill(self.pid, how)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(_PATIENCE)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server was never started"
        os.killpg(self._process.pid, number)

    def _end_mapper(self) -> None:
        # It runs apart from the node and outlives it. It refuses to end while it knows of a node: none is left.
        if _ROOT or shutil.which("epmd") is not None:
            subprocess.run(
                [*_command("epmd"), "-kill"],
                env=self._environment,
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
            )

    def _complaints(self) -> str:
        errors = self._folder / "errors"
        return (errors.read_text(errors="replace") if errors.exists() else "")[-2000:] + self.log[-2000:]


def _command(name: str) -> list[str]:
    if not _ROOT:
        return [_program(name) or name]
    program = _PROGRAMS / name
    return ["chroot", _ROOT, str(program) if Path(_ROOT + str(program)).exists() else name]


def _program(name: str) -> str | None:
    program = _PROGRAMS / name
    return str(program) if program.exists() else shutil.which(name)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
