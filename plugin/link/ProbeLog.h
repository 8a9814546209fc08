// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "core/SpscRing.h"
#include "core/Stream.h"

namespace demon
{
/// One line per processed block, for tests and bug reports: what the host said and what the stream made of it.
struct ProbeEntry
{
    int samples = 0;
    Transport transport;
    Stream::BlockReport block;
    float denoise = 0.0f, mix = 0.0f;
    std::int64_t nanoseconds = 0; ///< spent in the block
};

/// Appends JSON lines to the file that DEMON_PROBE_LOG names. The audio thread records, the link thread writes.
class ProbeLog
{
public:
    /// Null when DEMON_PROBE_LOG is not set or cannot be written.
    static std::unique_ptr<ProbeLog> fromEnvironment()
    {
        const char* path = std::getenv("DEMON_PROBE_LOG");
        std::FILE* file = path != nullptr ? std::fopen(path, "a") : nullptr;
        if (file == nullptr)
            return nullptr;
        std::setvbuf(file, nullptr, _IOLBF, 1024); // whole lines: instances may share the file
        return std::unique_ptr<ProbeLog>(new ProbeLog(file));
    }

    /// Audio thread, wait-free. Entries are lost when the link thread does not keep up.
    void record(const ProbeEntry& entry) noexcept
    {
        ring.tryPush([&](ProbeEntry& slot) { slot = entry; });
    }

    /// Link thread. Writes what has been recorded; `connected` is whether an engine serves the track by now.
    void drain(bool connected)
    {
        while (ring.tryPop([&](const ProbeEntry& entry) { write(entry, connected); }))
        {
        }
    }

private:
    explicit ProbeLog(std::FILE* openFile) : file(openFile, &std::fclose) {}

    void write(const ProbeEntry& e, bool connected)
    {
        std::fprintf(file.get(),
                     "{\"n\":%d,\"offline\":%d,\"has_position\":%d,\"playing\":%d,\"t\":%" PRId64
                     ",\"has_music\":%d,\"ppq\":%.6f,\"bpm\":%.4f,\"epoch\":%d,\"position\":%" PRId64
                     ",\"late\":%d,\"wet\":%d,\"denoise\":%.6f,\"mix\":%.6f,\"ns\":%" PRId64 ",\"connected\":%d}\n",
                     e.samples, e.transport.offline, e.transport.hasPosition, e.transport.playing, e.transport.sample,
                     e.transport.hasMusic, e.transport.ppq, e.transport.bpm, e.block.epoch, e.block.position,
                     e.block.late, e.block.hasWet, static_cast<double>(e.denoise), static_cast<double>(e.mix),
                     e.nanoseconds, connected);
    }

    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file;
    SpscRing<ProbeEntry> ring{4096};
};
} // namespace demon
