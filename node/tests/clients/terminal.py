"""A terminal written from the specification (sdk/protocol/README.md) alone, on plain `websockets`.

It keeps cursors and recent ids in memory, acknowledges what it handled, reconnects as the
specification says, and tells everything that happens as a line of JSON. Orders come as lines of JSON:

  {"do": "connect"}                              (with "token": a new one; with "forget": no cursors)
  {"do": "subscribe" | "unsubscribe", "topic": …}
  {"do": "refresh", "token": …}      {"do": "skip"}: the first message that is held
  {"do": "hold"}: acknowledge nothing, by itself {"do": "release"}: acknowledge what was held, go on
  {"do": "drop"}: lose the connection            {"do": "silent"}: send nothing more, not even pings
  {"do": "close"}: end the session               {"do": "leave"}: close the connection with 1000
  {"do": "send", "frame": {…}}: any frame
"""

import asyncio
import collections
import json
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

SUBPROTOCOL = "clarion.v1.json"
COALESCE_S = 0.05
DEAD_AFTER_S = 10
RECENT_IDS = 1000
STABLE_S = 60


def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


def what_to_do(code):
    """The table of "Reconnecting"."""
    if 4100 <= code <= 4199:
        return "new_token"
    if 4200 <= code <= 4999:
        return "stay"
    return "reconnect"


class Terminal:
    def __init__(self, options):
        self.url = options["url"]
        self.product = options["product"]
        self.token = options["token"]
        self.topics = options.get("topics", [])
        self.websocket_pings = options.get("websocket_pings", False)
        self.cursors = {}
        self.recent = collections.OrderedDict()
        self.hold = options.get("hold", False)
        self.quiet = False
        self.request = 0
        self.link = None
        self.reset()

    def reset(self):
        """Nothing of a former session lives on."""
        self.s = 0
        self.logs = {}
        self.unacknowledged = {}
        self.held = []
        self.verdict = None
        self.acknowledge_soon = None
        self.pong = None
        self.opened_at = None
        self.retry_after = 0

    # The connection -----------------------------------------------------------------------------

    async def run(self):
        """One connection after the other, until one ends for good."""
        attempt, wait = 0, 0
        while True:
            await asyncio.sleep(wait)
            code, reason = await self.connection()
            then = self.verdict or what_to_do(code)
            tell("lost", code=code, reason=reason, then=then)
            if then != "reconnect":
                return
            if self.opened_at and asyncio.get_running_loop().time() - self.opened_at >= STABLE_S:
                attempt = 0
            wait = self.retry_after + random.uniform(0, min(30, 0.5 * 2**attempt))
            attempt += 1

    async def connection(self):
        self.reset()
        try:
            self.link = await connect(
                self.url, subprotocols=[SUBPROTOCOL], compression=None, ping_interval=None, max_size=2**20
            )
        except InvalidStatus as refusal:
            body = json.loads(refusal.response.body or b"{}")
            self.retry_after = int(refusal.response.headers.get("Retry-After", 0))
            tell("refused", status=refusal.response.status_code, problem=body)
            return refusal.response.status_code, body.get("code", "")
        except OSError as error:
            return 1006, type(error).__name__
        self.sent = self.heard = asyncio.get_running_loop().time()
        self.heart = None
        try:
            await self.open()
            async for text in self.link:
                self.heard = asyncio.get_running_loop().time()
                await self.frame(json.loads(text))
        except ConnectionClosed:
            pass
        finally:
            if self.heart:
                self.heart.cancel()
            self.link.transport.abort()
        return self.link.close_code or 1006, self.link.close_reason or ""

    async def open(self):
        self.s = 1
        frame = {"t": "open", "s": self.s, "product": self.product, "token": self.token, "agent": "plain/1"}
        if self.cursors:
            frame["cursors"] = [[log, cursor] for log, cursor in self.cursors.items()]
        if self.topics:
            frame["topics"] = self.topics
        await self.send(frame)

    async def send(self, frame):
        self.sent = asyncio.get_running_loop().time()
        await self.link.send(json.dumps(frame))

    async def beat(self):
        """Something at least every heartbeat; a link that does not answer is dead."""
        loop = asyncio.get_running_loop()
        while not self.quiet:
            wait = self.sent + 0.8 * self.heartbeat_s - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            asked = self.sent = loop.time()
            if self.websocket_pings:
                answered = await self.link.ping()
            else:
                await self.send({"t": "ping", "s": 0})
                answered = self.pong = loop.create_future()
            try:
                await asyncio.wait_for(asyncio.shield(answered), DEAD_AFTER_S)
                tell("alive", by="pong" if self.websocket_pings else "frame")
            except asyncio.TimeoutError:
                if self.heard < asked:
                    self.link.transport.abort()

    def set_heartbeat(self, heartbeat_ms):
        self.heartbeat_s = heartbeat_ms / 1000
        if self.heart:
            self.heart.cancel()
        self.heart = asyncio.create_task(self.beat())

    # Frames from the node -----------------------------------------------------------------------

    async def frame(self, frame):
        kind = frame["t"]
        if kind == "opened":
            self.set_heartbeat(frame["heartbeat_ms"])
            self.opened_at = self.opened_at or asyncio.get_running_loop().time()
            self.window = frame["window"]
            self.held = []
            for log in frame["logs"]:
                self.enter(log)
            tell("opened", frame=frame)
        elif kind == "deliver":
            await self.deliver(frame)
        elif kind == "gap":
            log = self.logs[frame["l"]]
            self.cursors[log] = [frame["epoch"], frame["to"]]
            self.epochs[log] = frame["epoch"]
            tell("gap", log=log, frame=frame)
        elif kind == "subscribed":
            self.enter(frame["log"])
            tell("subscribed", frame=frame)
        elif kind == "unsubscribed":
            self.cursors.pop("topic:" + frame["topic"], None)
            tell("unsubscribed", frame=frame)
        elif kind == "heartbeat":
            self.set_heartbeat(frame["ms"])
            tell("heartbeat", frame=frame)
        elif kind == "pong":
            if self.pong and not self.pong.done():
                self.pong.set_result(None)
        elif kind == "closed":
            self.verdict = what_to_do(frame["code"])
            assert (self.verdict == "stay") == (not frame["reconnect"]), frame
            tell("closed", frame=frame)
        elif kind == "goaway":
            tell("goaway", frame=frame)
            asyncio.get_running_loop().call_later(
                frame["after_ms"] / 1000, lambda: asyncio.ensure_future(self.link.close(1000))
            )
        elif kind in ("refreshed", "error"):
            tell(kind, frame=frame)

    def enter(self, log):
        alias, name = log["l"], log["log"]
        assert self.logs.get(alias, name) == name, f"alias {alias} was given to another log"
        self.logs[alias] = name
        self.epochs[name] = log["epoch"]
        known = self.cursors.get(name)
        if known is None or known[0] != log["epoch"] or known[1] < log["offset"]:
            self.cursors[name] = [log["epoch"], log["offset"]]

    @property
    def epochs(self):
        return self.__dict__.setdefault("_epochs", {})

    async def deliver(self, frame):
        log = self.logs[frame["l"]]
        for message in frame["m"]:
            assert ("d" in message) != ("b" in message), message
            known = message["id"] in self.recent
            tell("message", log=log, known=known, again=frame.get("again", False), **message)
            self.recent[message["id"]] = None
            if len(self.recent) > RECENT_IDS:
                self.recent.popitem(last=False)
            if "o" not in message:
                continue
            if self.hold:
                self.held.append((frame["l"], message["o"]))
            else:
                await self.handled(frame["l"], message["o"])

    async def handled(self, alias, offset):
        log = self.logs[alias]
        if offset > self.cursors[log][1]:
            self.cursors[log] = [self.epochs[log], offset]
        count, highest = self.unacknowledged.get(alias, (0, 0))
        self.unacknowledged[alias] = (count + 1, max(offset, highest))
        if count + 1 >= self.window // 2:
            await self.acknowledge()
        elif self.acknowledge_soon is None:
            self.acknowledge_soon = asyncio.get_running_loop().call_later(
                COALESCE_S, lambda: asyncio.ensure_future(self.acknowledge())
            )

    async def acknowledge(self):
        if self.acknowledge_soon:
            self.acknowledge_soon.cancel()
            self.acknowledge_soon = None
        pairs = [[alias, offset] for alias, (_, offset) in self.unacknowledged.items()]
        self.unacknowledged = {}
        if pairs:
            try:
                await self.send({"t": "ack", "s": self.s, "a": pairs})
            except ConnectionClosed:
                return
            tell("acknowledged", pairs=pairs)

    # Orders -------------------------------------------------------------------------------------

    async def order(self, order):
        do = order["do"]
        if do in ("subscribe", "unsubscribe"):
            self.request += 1
            await self.send({"t": do, "s": self.s, "id": self.request, "topic": order["topic"]})
        elif do == "refresh":
            await self.send({"t": "refresh", "s": self.s, "token": order["token"]})
        elif do == "skip":
            alias, offset = self.held.pop(0)
            await self.send({"t": "skip", "s": self.s, "l": alias, "o": offset})
        elif do == "hold":
            self.hold = True
        elif do == "release":
            self.hold = False
            held, self.held = self.held, []
            for alias, offset in held:
                await self.handled(alias, offset)
        elif do == "drop":
            self.link.transport.abort()
        elif do == "silent":
            self.quiet = True
        elif do == "close":
            await self.send({"t": "close", "s": self.s})
        elif do == "leave":
            self.verdict = "left"
            await self.link.close(1000)
        elif do == "send":
            await self.send({"s": self.s, **order["frame"]})


async def main():
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    terminal = Terminal(json.loads(sys.argv[1]))
    running = asyncio.create_task(terminal.run())
    while line := await orders.readline():
        order = json.loads(line)
        if order["do"] == "connect":
            await running
            terminal.token = order.get("token", terminal.token)
            if order.get("forget"):
                terminal.cursors.clear()
            running = asyncio.create_task(terminal.run())
        else:
            await terminal.order(order)


asyncio.run(main())
