"""What a person at a terminal sees of redis-cli. Takes the unix socket's path."""

import os
import pty
import re
import select
import sys

DEADLINE_SECONDS = 60


class Terminal:
    def __init__(self, arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "dumb"
            os.environ["HOME"] = "/nonexistent"
            os.execvp(arguments[0], arguments)
        self.text = ""

    def read_until(self, pattern):
        """What is shown up to a pattern, without escapes; that is the end of what was read."""
        while not (found := re.search(pattern, self.text)):
            if not select.select([self.fd], [], [], DEADLINE_SECONDS)[0]:
                sys.exit(f"waited for {pattern!r} in vain: {self.text!r}")
            try:
                more = os.read(self.fd, 4096).decode(errors="replace")
            except OSError:
                sys.exit(f"redis-cli ended before {pattern!r}: {self.text!r}")
            self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", more)
        shown, self.text = self.text[: found.end()], self.text[found.end() :]
        return shown

    def ask(self, line, answer):
        os.write(self.fd, line.encode() + b"\n")
        self.read_until(answer)
        self.read_until(r"> ")


terminal = Terminal(["redis-cli", "-s", sys.argv[1]])
terminal.read_until(r"> ")
terminal.ask('set key "a value"', r"OK")
terminal.ask("get key", r'"a value"')
terminal.ask("get nothing", r"\(nil\)")
terminal.ask("incr n", r"\(integer\) 1")
terminal.ask("range k o", r'1\) "key"\s+2\) "a value"\s+3\) "n"\s+4\) "1"')
terminal.ask("incr key", r"\(error\) ERR value is not an integer")
terminal.ask("multi", r"OK")
terminal.ask("incr n", r"QUEUED")
terminal.ask("exec", r"1\) \(integer\) 2")
terminal.ask("begin", r"OK")
terminal.ask("set n 7", r"OK")
terminal.ask("commit returning lsn", r'"[0-9A-F]+/[0-9A-F]+"')
terminal.ask("select 1", r"OK")
terminal.ask("dbsize", r"\(integer\) 0")
os.write(terminal.fd, b"exit\n")
_, status = os.waitpid(terminal.pid, 0)
if status != 0:
    sys.exit(f"redis-cli ended with {status}")
print("all right")
