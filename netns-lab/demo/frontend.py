"""A small shop window: counts its visitors in Redis. Standard library only.

It knows one thing about Redis: that there is a Service of the name "redis-service". Which pods
stand behind it, and where they run, it never learns, except that the demonstration has it ask
Redis who it is.

    frontend.py serve       the pod's own process: a web page on port 8080
    frontend.py one         one request, and everything a program can see of it, as JSON
    frontend.py many N      N requests, one JSON line each
    frontend.py stream      requests until standard input ends, one JSON line each
"""

import http.server
import json
import socket
import sys
import threading
import time

SERVICE, PORT = "redis-service", 6379
PATIENCE = 1.0  # seconds
STREAMS = 4  # requests at a time in "stream"


class Redis:
    """One connection, speaking RESP (the Redis protocol): arrays of strings out, values in."""

    def __init__(self):
        # This is all it takes to use a Service: its name. The resolver turns it into an address.
        self.socket = socket.create_connection((SERVICE, PORT), timeout=PATIENCE)
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        parts = [f"*{len(words)}\r\n"]
        parts += [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        self.socket.sendall("".join(parts).encode())
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("Redis hung up")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise ConnectionError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self.file.read(int(rest) + 2)[:-2].decode()
        return rest

    def who_are_you(self):
        """Redis' own view of this connection: its address and ours, as Redis sees them."""
        fields = dict(pair.split("=", 1) for pair in self.ask("CLIENT", "INFO").split() if "=" in pair)
        return {"redis": fields["laddr"], "client": fields["addr"]}

    def close(self):
        self.file.close()
        self.socket.close()


def address(pair):
    return f"{pair[0]}:{pair[1]}"


def one():
    found = socket.getaddrinfo(SERVICE, PORT, socket.AF_INET, socket.SOCK_STREAM)
    redis = Redis()
    seen = {
        "nameserver": nameserver(),
        "resolved": found[0][4][0],
        "local": address(redis.socket.getsockname()),
        "peer": address(redis.socket.getpeername()),
        "kernel_says": address(kernels_peer(redis.socket)),
        "visits": redis.ask("INCR", "visits"),
        "redis_says": redis.who_are_you(),
    }
    redis.close()
    return seen


def kernels_peer(connected):
    """Where the kernel's own list of sockets has this one connected to (proc_net_tcp)."""
    ip, port = connected.getsockname()
    wanted = f"{int.from_bytes(socket.inet_aton(ip), sys.byteorder):08X}:{port:04X}"
    with open("/proc/net/tcp") as table:
        fields = next(words for words in map(str.split, table) if words[1] == wanted)
    ip, port = fields[2].split(":")
    return socket.inet_ntoa(int(ip, 16).to_bytes(4, sys.byteorder)), int(port, 16)


def nameserver():
    with open("/etc/resolv.conf") as file:
        return next(line.split()[1] for line in file if line.startswith("nameserver"))


def timed():
    """One request on a new connection, with when it was and who answered."""
    began = time.time_ns()
    try:
        redis = Redis()
        redis.ask("INCR", "visits")
        outcome = {"by": redis.who_are_you()["redis"].rsplit(":", 1)[0]}
        redis.close()
    except OSError as error:
        outcome = {"error": str(error)}
    return {"began": began, "ended": time.time_ns(), **outcome}


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def stream():
    over = threading.Event()

    def work():
        while not over.is_set():
            say(timed())

    workers = [threading.Thread(target=work) for _ in range(STREAMS)]
    for worker in workers:
        worker.start()
    sys.stdin.read()
    over.set()
    for worker in workers:
        worker.join()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            redis = Redis()
            visits, who = redis.ask("INCR", "visits"), redis.who_are_you()["redis"]
            redis.close()
            status, text = 200, f"Welcome, visitor number {visits}. (Counted by Redis at {who}.)\n"
        except OSError as error:
            status, text = 503, f"The counter is out of reach: {error}\n"
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # takes IPv4, too


def main(words):
    match words:
        case ["serve"]:
            Server(("::", 8080), Page).serve_forever()
        case ["one"]:
            say(one())
        case ["many", count]:
            for _ in range(int(count)):
                say(timed())
        case ["stream"]:
            stream()
        case _:
            sys.exit(__doc__)


main(sys.argv[1:])
