# SPDX-License-Identifier: Apache-2.0
"""What one client may ask of the server: messages and bytes per second, tracks, and memory.

The defaults stand far above what a plugin does, since a refused `feed` is fed again and costs more than it saves; they stop
a broken or hostile client, and only it. Each refusal is a named error for the one who asked. No class here is shared between
threads: the socket thread owns them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from shared_protocol.errors import DemonError

MIB = 2**20
Clock = Callable[[], float]
QUESTIONS_PER_S, QUESTIONS_AT_ONCE = 5.0, 10.0
"""Of one client: each is answered with a report, which takes a millisecond or more."""


@dataclass(frozen=True)
class Limits:
    """Of one track, or of one client where it says so.

    What a plugin sends, at most. A frame of audio has 2 * 4 * rate/25 bytes: 15 KiB at 48 kHz, 60 KiB at 192 kHz; lanes add
    1 KiB. Playing in real time: 25 frames a second in as many messages, 20 pings (Loop: one each 0.05 s), and edits of which
    one is in flight at a time: below 100 messages and 2 MiB per second.
    """

    messages_per_s: float = 2_000.0
    """A bounce feeds what its host hands over, once per turn of the link thread, which sleeps 1 ms: below 1000 a second. The
    audio of so many frames would be 40 times real time."""
    messages_burst: float = 8_000.0
    """Resuming: 3000 frames that a stream keeps, 25 to a message, are 120 messages; a clip has 1500 frames on their way at a
    time, 600 messages in all; two references of 11.5 million samples each in pieces of 65536 are 352. Twice, since the engine may
    be restarted while a track resumes; and some that were queued for the old engine."""
    bytes_per_s: float = 128.0 * MIB
    """A bounce at 192 kHz, 80 times faster than real time."""
    bytes_burst: float = 2_048.0 * MIB
    """Resuming at 192 kHz: a clip of ten minutes has 880 MiB, two references 176 MiB; twice is 2112, of
    which the rate gives the rest in a second."""
    held_bytes: int = 256 * MIB
    """Of one track: messages that the engine's thread has not taken yet. Two references at 192 kHz have 176 MiB, and come at
    once; of a feed no more than its credit."""
    patience: int = 8_000
    """Messages that are refused in one flood before the connection is closed: what comes faster than it is refused waits in
    ZeroMQ, which has no bound of its own."""
    unknown: int = 1_000
    """The same two, of messages that belong to no track: a client says `hello`, or what it had queued for an engine that is gone.
    Whoever floods a server without a track is cut off sooner."""
    tracks: int = 64
    """Of one client: as many as the server takes at all, since a whole song may come from one machine. Lower it where
    several people share an engine."""

    def before_hello(self) -> Limits:
        """For messages that belong to no track."""
        return replace(
            self, messages_burst=min(self.messages_burst, self.unknown), patience=min(self.patience, self.unknown)
        )


class FloodError(DemonError):
    """A flood has lasted too long: the connection that it comes by is to be closed. size: of what was refused since the last."""

    def __init__(self, text: str, size: int) -> None:
        super().__init__("E_RATE", text)
        self.size = size


class TokenBucket:
    """Lets `burst` through at once and `per_s` in the long run: at most `burst + per_s * t` in any t seconds."""

    def __init__(self, per_s: float, burst: float, clock: Clock = time.monotonic) -> None:
        if not (per_s > 0 and burst > 0):
            raise ValueError(f"per_s {per_s} and burst {burst} must be above 0")
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._tokens, self._at = burst, clock()

    def can_take(self, amount: float) -> bool:
        """Whether `take` would succeed now."""
        self._fill()
        return amount <= self._tokens

    def take(self, amount: float = 1.0) -> bool:
        """Whether `amount` may pass; if not, nothing is taken. An amount above `burst` never passes."""
        if not self.can_take(amount):
            return False
        self._tokens -= amount
        return True

    def is_full(self) -> bool:
        """Whether it is as if nothing had ever been taken."""
        self._fill()
        return self._tokens >= self._burst

    def _fill(self) -> None:
        now = self._clock()
        if now > self._at:  # a clock that steps back gives nothing
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
            self._at = now


class Meter:
    """The traffic of one track, on all its sockets."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self._limits = limits
        self._messages = TokenBucket(limits.messages_per_s, limits.messages_burst, clock)
        self._bytes = TokenBucket(limits.bytes_per_s, limits.bytes_burst, clock)
        self._refused = self._refused_bytes = 0
        """Messages, since nothing needed to be remembered, and bytes since patience ended last."""

    def admit(self, size: int) -> None:
        """Count a message of so many bytes. Raises DemonError `E_RATE` for one too many, which then is to be dropped unread, and
        FloodError for one that ends patience.

        It still counts as a message, so a flood does not earn back what it wastes.
        """
        if self._refused and self.is_idle():
            self._refused = self._refused_bytes = 0
        if not self._messages.take():
            raise self._refusal(f"more than {self._limits.messages_per_s:g} messages per second: send fewer", size)
        if not self._bytes.take(size):
            raise self._refusal(f"more than {self._limits.bytes_per_s / MIB:g} MiB per second: send less", size)

    def _refusal(self, text: str, size: int) -> DemonError:
        self._refused += 1
        self._refused_bytes += size
        if self._refused % self._limits.patience:
            return DemonError("E_RATE", text)
        total, self._refused_bytes = self._refused_bytes, 0
        return FloodError(text, total)

    def is_idle(self) -> bool:
        """Whether nothing needs to be remembered of it."""
        return self._messages.is_full() and self._bytes.is_full()


class Account:
    """One client: its tracks, and the traffic that belongs to no track (before `hello`)."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self.tracks = 0
        self.meter = Meter(limits.before_hello(), clock)
        """For messages of routing ids that are no track."""
        self._limits, self._clock = limits, clock
        self._questions = TokenBucket(QUESTIONS_PER_S, QUESTIONS_AT_ONCE, clock)

    def ask(self) -> None:
        """Count a `status`. Raises DemonError `E_RATE` for one too many."""
        if not self._questions.take():
            raise DemonError("E_RATE", f"more than {QUESTIONS_PER_S:g} questions per second: ask less often")

    def open_track(self) -> Meter:
        """A place for one more track, and the meter of its traffic. Raises DemonError `E_BUSY`."""
        if self.tracks >= self._limits.tracks:
            raise DemonError("E_BUSY", f"this client has {self.tracks} tracks, as many as it may have: close some")
        self.tracks += 1
        return Meter(self._limits, self._clock)

    def close_track(self) -> None:
        """Give a place back."""
        assert self.tracks > 0
        self.tracks -= 1

    def is_idle(self) -> bool:
        """Whether forgetting it would change nothing."""
        return not self.tracks and self.meter.is_idle() and self._questions.is_full()


SWEPT_FROM = 64
"""Accounts are looked through when there are twice as many as after the last time, and no fewer than these: old ones must not
wait for the many that a server has room for."""


class Accounts:
    """The accounts of all clients: by user id (`security.user_of`), or by routing id where there are no keys."""

    def __init__(self, limits: Limits | None = None, *, most: int = 4096, clock: Clock = time.monotonic) -> None:
        self._limits, self._most, self._clock = limits or Limits(), most, clock
        self._accounts: dict[str | bytes, Account] = {}
        self._sweep_at = SWEPT_FROM
        """How many there may be before those that say nothing are looked for again."""

    def __len__(self) -> int:
        return len(self._accounts)

    def of(self, client: str | bytes) -> Account:
        """A client's account. Raises DemonError `E_BUSY` when there are too many that cannot be forgotten."""
        account = self._accounts.get(client)
        if account is None:
            if len(self._accounts) >= min(self._sweep_at, self._most):
                self.forget_idle()
                self._sweep_at = max(SWEPT_FROM, 2 * len(self._accounts))
            if len(self._accounts) >= self._most:
                raise DemonError(
                    "E_BUSY", f"this server has heard {self._most} clients in a short time; try again soon"
                )
            account = self._accounts[client] = Account(self._limits, self._clock)
        return account

    def forget_idle(self) -> None:
        """Drop the accounts that say nothing."""
        self._accounts = {client: account for client, account in self._accounts.items() if not account.is_idle()}
