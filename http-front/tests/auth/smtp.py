"""An SMTP server that keeps what it gets: `smtp.py FOLDER [REFUSALS]`.

Each mail becomes a file in FOLDER. The first REFUSALS mails get 451, and mail to
`nobody@` gets 550 with the address in the words, as servers do.
"""

import asyncio
import pathlib
import sys

from aiosmtpd.smtp import SMTP

FOLDER = pathlib.Path(sys.argv[1])
refusals = int(sys.argv[2]) if len(sys.argv) > 2 else 0
taken = 0


class Sink:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return f"550 5.1.1 <{address}> is not known here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        global refusals, taken
        if refusals > 0:
            refusals -= 1
            return "451 4.7.1 later"
        taken += 1
        unfinished = FOLDER / f".{taken}"
        unfinished.write_bytes(envelope.content)
        unfinished.rename(FOLDER / f"{taken:04}.eml")
        return "250 OK"


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Sink()), "127.0.0.1", 0)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
