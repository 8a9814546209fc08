# SPDX-License-Identifier: Apache-2.0
"""Two of the same engine: one plays, the other takes the weights of the next mix of LoRAs, and they change places between ticks.

So no tick waits for a refit, whatever that takes: the thread that ticks only exchanges two references. A stream that must be
exact asks to wait. While one refit is under way only the newest mix is remembered. It costs the memory of a second engine's
weights.
"""

from __future__ import annotations

import logging
import threading
import time

import torch

from engine_server.model.lora_mix import BARE, Mix
from shared_protocol.errors import DemonError
from trt_engines.engine_program import EngineProgram, Forms, NoRoomError
from trt_engines.refit_engine import RefitEngine

log = logging.getLogger("demon.engine")
REFIT_DONE = "LoRAs are in the spare engine after %.0f ms"


class LiveWeights:
    """`ask` is for any thread, `settle` for the one that ticks. There is a thread of its own only while a refit is under way."""

    def __init__(self, playing: RefitEngine, spare: RefitEngine) -> None:
        self._playing = playing
        self._spare = spare
        self._changes = threading.Condition()
        self._asked: Mix = BARE
        self._is_busy = False
        """The spare one belongs to the thread that refits it."""
        self._is_ready = False
        """It holds a mix that was asked for, and waits for a tick."""
        self._failed: Mix | None = None
        """What could not be had; it is tried again when it is asked for again."""
        self._error: DemonError | None = None
        """Why."""

    @property
    def heard(self) -> Mix:
        """What ticks hear since the last `settle`."""
        mix = self._playing.mix
        assert mix is not None
        return mix

    def ask(self, mix: Mix) -> None:
        """Have a mix heard, as soon as it can be: see `settle`. Returns at once."""
        with self._changes:
            self._asked, self._failed = mix, None
            self._begin(is_exact=False)

    def settle(self, *, exact: bool) -> EngineProgram:
        """What the tick that now begins is to run.

        exact: it has the mix that was asked for last, to the bit, which is waited for; else it is the newest that there is, and
        strengths that have moved by less than `LEAST_CHANGE` stay where they are. Raises DemonError, when exact, if it cannot be
        had: `E_ENGINE_REFIT`, `E_MEMORY`. What played before goes on then, and another `settle` tries again.
        """
        with self._changes:
            self._exchange()
            if exact:
                self._wait_for_asked()
            self._begin(is_exact=False)
            return self._playing.program

    def _wait_for_asked(self) -> None:
        self._failed = None
        while not self._asked.is_same(self._playing.mix):
            self._begin(is_exact=True)
            self._changes.wait_for(lambda: not self._is_busy)
            if self._failed is self._asked and self._error is not None:
                raise self._error
            self._exchange()

    def _exchange(self) -> None:
        """The spare engine plays from now on, if it has anything new. Called with the lock, by the thread that ticks."""
        if not self._is_ready:
            return
        self._is_ready = False
        if self._asked.is_same(self._playing.mix):
            return  # it was asked back meanwhile
        if not self._spare.program.follows(self._playing.program.forms):
            assert self._spare.mix is not None
            self._start(self._spare.mix)  # a form was met meanwhile, whose context no tick shall wait for
            return
        self._playing.retire()
        self._playing, self._spare = self._spare, self._playing

    def _begin(self, *, is_exact: bool) -> None:
        """Refit the spare engine, if that is of use and not under way. Called with the lock."""
        if self._is_busy or self._is_ready or self._asked is self._failed:
            return
        if not (self._asked.is_same if is_exact else self._asked.is_near)(self._playing.mix):
            self._start(self._asked)

    def _start(self, mix: Mix) -> None:
        self._is_busy = True
        forms = self._playing.program.forms
        threading.Thread(target=self._refit, args=(self._spare, mix, forms), name="demon-refit").start()

    def _refit(self, spare: RefitEngine, mix: Mix, forms: Forms) -> None:
        error, began = None, time.monotonic()
        try:
            spare.refit(mix, forms)
            log.info(REFIT_DONE, 1000 * (time.monotonic() - began))
        except DemonError as raised:
            error = raised.with_traceback(None)  # whose frames hold arrays
        except (torch.OutOfMemoryError, NoRoomError) as raised:
            error = DemonError(
                "E_MEMORY",
                f"the GPU's memory has no room for the weights with these LoRAs ({raised}); end what else uses this GPU (see "
                f"nvidia-smi), or take out a LoRA. What played goes on unchanged",
            )
        except Exception as raised:
            log.exception("a refit failed")
            error = DemonError(
                "E_ENGINE_REFIT", f"LoRAs could not be written ({raised}); what played goes on unchanged"
            )
        if error is not None:
            log.error("%s", error)
        with self._changes:
            self._is_busy, self._is_ready, self._error = False, error is None, error
            if error is not None:
                self._failed = mix
            self._changes.notify_all()
