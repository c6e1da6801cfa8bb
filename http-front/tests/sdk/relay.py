"""A relay between a client and the gateway that passes every byte on unchanged
and keeps what was said, so that a test can look at it or print it."""

import dataclasses
import json
import socket
import threading
import typing


@dataclasses.dataclass
class Exchange:
    method: str
    path: str
    headers: dict
    body: bytes
    status: typing.Optional[int] = None
    answer: bytes = b""

    def describe(self):
        shown = {name: value for name, value in self.headers.items() if name.startswith("x-")}
        return (
            f"{self.method} {self.path} {json.dumps(shown)}\n"
            f"    {self.body[:2000].decode(errors='replace')}\n"
            f"    -> {self.status} {self.answer[:2000].decode(errors='replace')}"
        )


class Relay:
    """Listens on a free port of its own and relays to `port`."""

    def __init__(self, port):
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.exchanges = []
        threading.Thread(target=self._accept, daemon=True).start()

    def of(self, path):
        """The exchanges on `path`, in the order the requests came."""
        return [exchange for exchange in self.exchanges if exchange.path == path]

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            with client, socket.create_connection(self._upstream) as gateway:
                for each in (client, gateway):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._converse(client, gateway)
        except OSError:
            pass  # one side hung up; what was said until then is kept

    def _converse(self, client, gateway):
        questions, replies = client.makefile("rb"), gateway.makefile("rb")
        while True:
            start, headers, raw = _read_head(questions)
            if not start:
                return
            method, path, _ = start.split(" ", 2)
            body, raw_body = _read_body(questions, headers, until_close=False)
            exchange = Exchange(method, path.split("?")[0], headers, body)
            self.exchanges.append(exchange)
            gateway.sendall(raw + raw_body)

            start, headers, raw = _read_head(replies)
            if not start:
                return
            exchange.status = int(start.split(" ")[1])
            if exchange.status == 101:
                client.sendall(raw)
                threading.Thread(target=_pump, args=(questions, gateway), daemon=True).start()
                return _pump(replies, client)
            bodyless = exchange.status in (204, 304)
            if not bodyless:
                exchange.answer, raw_body = _read_body(replies, headers, until_close=True)
                raw += raw_body
            client.sendall(raw)


def _read_head(stream):
    raw = start = stream.readline()
    headers = {}
    while start and (line := stream.readline()).strip():
        raw += line
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return start.decode("latin-1").strip(), headers, raw + b"\r\n"


def _read_body(stream, headers, until_close):
    """The body, and the very bytes it was sent as."""
    if "chunked" in headers.get("transfer-encoding", ""):
        body = raw = b""
        while True:
            size = stream.readline()
            chunk = stream.read(int(size.split(b";")[0], 16))
            end = stream.readline()
            body, raw = body + chunk, raw + size + chunk + end
            if not chunk:
                return body, raw
    if "content-length" in headers:
        body = stream.read(int(headers["content-length"]))
    else:
        body = stream.read() if until_close else b""
    return body, body


def _pump(source, sink):
    try:
        while data := source.read1(65536):
            sink.sendall(data)
    except OSError:
        pass
