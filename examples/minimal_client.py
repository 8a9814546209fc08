# SPDX-License-Identifier: Apache-2.0
"""Bounce a file: `python examples/minimal_client.py in.flac out.wav tcp://127.0.0.1:47800 strings denoise=0.6`.

Written from shared_protocol/SPEC.md, with nothing else of this project: a start for a client of your own. It has no keys, so the
engine must be on this machine; it may be restarted meanwhile. Needs pyzmq, msgspec, numpy and soundfile.
"""

import argparse
import os
import time

import msgspec
import numpy as np
import soundfile
import zmq

PING_S, SILENCE_S, RESEND_S, FIRST_WAIT_S, LAST_WAIT_S, FAREWELL_MS = 0.25, 3.0, 2.0, 0.25, 1.0, 500
EPOCH, CREDIT, FEED_FRAMES, MOST_AHEAD = 1, 250, 25, 1000  # ahead: more than a window needs, less than engines hold


class Bounce:
    """What has arrived stays here while connections come and go."""

    def __init__(self, audio, rate, lanes, config, give_up_s):
        self.rate, self.size, self.lanes, self.config = rate, rate // 25, lanes, config
        self.total = -(-len(audio) // self.size)
        self.source = np.zeros((2, self.total + MOST_AHEAD, self.size), "<f4")  # after its end it goes on as silence
        self.source.reshape(2, -1)[:, : len(audio)] = audio.T  # mono is played on both sides
        self.result = np.zeros((2, self.total, self.size), np.float32)
        self.id, self.wanted = os.urandom(16), 0  # wanted: first frame of the result that is not here
        self.wait_s, self.give_up_s, self.progress_at = FIRST_WAIT_S, give_up_s, time.monotonic()

    def run(self, home):
        """Return the result `[samples, 2]`. Starts again at `home` whenever an engine is lost."""
        elsewhere = ""
        while self.wanted < self.total:
            try:
                was_sent_on, elsewhere = elsewhere, self.connect(elsewhere or home)
                if elsewhere and was_sent_on:
                    raise ConnectionError
            except ConnectionError:
                elsewhere = ""
                time.sleep(self.wait_s)
                self.wait_s = min(2 * self.wait_s, LAST_WAIT_S)
        return self.result.reshape(2, -1).T

    def connect(self, endpoint):
        """Say hello and bounce what is wanted still. Returns where to go instead, if told so; raises ConnectionError."""
        self.endpoint, self.sockets, self.audio = endpoint, [], None
        self.received = confirmed = number = pinged_at = 0
        heard_at, control = time.monotonic(), self.open(b"c" + self.id, endpoint)
        try:
            send(control, {"type": "hello", "protocol": 3, "client": "minimal 1", "rate": self.rate, "mode": "stream",
                           "latency": 3000, "credit": CREDIT, "packing": "none", "lanes": list(self.lanes),
                           "config": self.config})  # fmt: skip
            while self.wanted < self.total:
                for socket in zmq.select(self.sockets, [], [], 0.02)[0]:
                    header, *payloads = socket.recv_multipart()
                    heard_at = time.monotonic()
                    if elsewhere := self.receive(msgspec.msgpack.decode(header), payloads, heard_at):
                        return elsewhere
                now = time.monotonic()
                if now - self.progress_at > self.give_up_s:
                    raise SystemExit(f"E_TIMEOUT: neither audio nor progress for {self.give_up_s:g} s")
                if now - heard_at > SILENCE_S:
                    raise ConnectionError
                if self.audio:
                    self.feed()
                    if now - pinged_at > PING_S or self.received - confirmed >= CREDIT // 4:
                        number, pinged_at, confirmed = number + 1, now, self.received
                        send(control, {"type": "ping", "number": number, "epoch": EPOCH, "wanted": self.wanted,
                                       "received": self.received})  # fmt: skip
            send(control, {"type": "bye"})
            control.close(linger=FAREWELL_MS)
        finally:
            for socket in self.sockets:
                socket.close(linger=0)

    def open(self, routing_id, endpoint):
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.routing_id, socket.sndhwm = routing_id, 0  # what waits is bounded by the engine's credit
        socket.connect(endpoint)
        self.sockets.append(socket)
        return socket

    def receive(self, header, payloads, now):
        """Take a message; what is not for this client is ignored. Returns an endpoint to go to, if there is one."""
        match header:
            case {"type": "redirect", "endpoint": endpoint} if not self.audio:
                return endpoint.replace("*", self.endpoint[6:].rsplit(":", 1)[0])  # the host that was asked
            case {"type": "welcome", "ticket": ticket, "credit": credit, "retain": retain} if not self.audio:
                host, port = self.endpoint.rsplit(":", 1)
                self.audio = self.open(b"a" + bytes.fromhex(ticket), f"{host}:{int(port) + 1}")
                self.wait_s, self.credit, self.has_gap, self.moved_at = FIRST_WAIT_S, credit, False, now
                self.fed = self.taken = max(0, self.wanted - retain)  # the engine needs so much to go on
                send(self.audio, {"type": "begin", "epoch": EPOCH, "kind": "stream", "start": 0, "feed_from": self.fed,
                                  "deliver_from": self.wanted, "offline": True})  # fmt: skip
            case {"type": "window", "epoch": 1, "frame": frame, "count": count}:
                self.received, self.progress_at = self.received + count, now
                if frame <= self.wanted < frame + count:  # neither a repeat nor after a gap
                    audio = np.frombuffer(payloads[0], "<f4").reshape(2, count, self.size)
                    first, self.wanted = self.wanted, min(frame + count, self.total)
                    self.result[:, first : self.wanted] = audio[:, first - frame : self.wanted - frame]
                    print(f"{self.wanted} of {self.total} frames", flush=True)
            case {"type": "progress"}:
                self.progress_at = now
            case {"type": "pong", "epochs": epochs, "expected": expected} if self.audio:
                taken = dict(zip(epochs, expected, strict=True)).get(EPOCH)
                if taken not in (None, self.taken) or taken == self.fed:
                    self.taken, self.moved_at = taken, now
                if self.has_gap or now - self.moved_at > RESEND_S:  # something was lost on the way
                    if taken is None:
                        raise ConnectionError
                    self.fed, self.moved_at, self.has_gap = taken, now, False
            case {"type": "closing"} | {"type": "error", "code": "E_UNKNOWN_TRACK"} if self.audio:
                raise ConnectionError
            case {"type": "error", "code": "E_FEED_GAP" | "E_LIMIT" | "E_UNKNOWN_TRACK"}:  # the last is of before
                self.has_gap = True
            case {"type": "error", "code": code, "message": message}:
                raise SystemExit(f"{code}: {message}")

    def feed(self):
        """Send input as far as the credit goes, also the silence after the file: the last windows need it."""
        stop = min(self.taken + self.credit, self.wanted + MOST_AHEAD)
        for first in range(self.fed, stop, FEED_FRAMES):
            count = min(FEED_FRAMES, stop - first)
            lanes = np.tile(np.array(list(self.lanes.values()), "<f4"), count)
            header = {"type": "feed", "epoch": EPOCH, "frame": first, "count": count}
            send(self.audio, header, self.source[:, first : first + count].tobytes(), lanes.tobytes())
        self.fed = max(self.fed, stop)


def send(socket, header, *payloads):
    socket.send_multipart([msgspec.msgpack.encode(header), *payloads])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("source", "out", "endpoint", "prompt"):
        parser.add_argument(name)
    parser.add_argument("lanes", nargs="*", metavar="LANE=VALUE", type=lambda text: (text.partition("=")[0],
                        float(text.partition("=")[2])))  # fmt: skip
    parser.add_argument("--give-up", type=float, default=20.0, metavar="SECONDS")
    given = parser.parse_args()
    config = {"prompt": given.prompt, "prompt_b": "", "seed": 7, "steps": 0, "solver": "ode", "loras": [], "timbre": "",
              "structure": "", "feedback_rounds": 1, "bpm": 0, "meter": 0}  # fmt: skip
    audio, rate = soundfile.read(given.source, dtype="float32", always_2d=True)
    bounce = Bounce(audio, rate, dict(given.lanes), config, given.give_up)
    soundfile.write(given.out, bounce.run(given.endpoint)[: len(audio)], rate, "FLOAT")
