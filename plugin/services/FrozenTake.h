// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "AudioFile.h"
#include "Receipt.h"
#include "core/FrozenAudio.h"
#include "demon/timebase.h"

namespace demon
{
/// A render that the user has frozen, in memory at the host's rate: it plays without an engine. Does not change after
/// construction, so any thread may read it, the audio thread too; let that thread not be the last to hold it.
class FrozenTake
{
public:
    /// `hashes` has a value per frame; it is empty where the take was resampled, since then no input can be compared.
    FrozenTake(std::string takeId, AudioClip audio, std::int64_t first, std::vector<std::uint64_t> hashes,
               LaneSelection hashedLanes, Receipt takeReceipt)
        : id(std::move(takeId)), rate(audio.rate), grid(FrameGrid::forRate(audio.rate)), firstFrame(first),
          frameCount(audio.samples / grid.length), lanes(hashedLanes), receipt(std::move(takeReceipt)),
          clip(std::move(audio)), inputHashes(std::move(hashes))
    {
    }

    const std::string id; ///< 64 hexadecimal digits that stand for everything in it: what the project keeps
    const int rate;
    const FrameGrid grid;
    const std::int64_t firstFrame, frameCount; ///< on the timeline
    const LaneSelection lanes;                 ///< that the input hashes are made of
    const Receipt receipt;

    bool hasFrame(std::int64_t frame) const noexcept { return frame >= firstFrame && frame - firstFrame < frameCount; }

    /// The samples of a frame, or null outside the take. Channel 0 or 1. Real-time safe.
    const float* frame(std::int64_t frame, int channel) const noexcept
    {
        return hasFrame(frame) ? clip.channel(channel) + (frame - firstFrame) * grid.length : nullptr;
    }

    /// The hash of the input that the frame was made from (see FrameHasher); 0 where it is not known. Real-time safe.
    std::uint64_t inputHash(std::int64_t frame) const noexcept
    {
        const auto index = static_cast<std::uint64_t>(frame - firstFrame);
        return hasFrame(frame) && index < inputHashes.size() ? inputHashes[static_cast<std::size_t>(index)] : 0;
    }

    /// What plays it. It holds no owner: see frozenAudioOf.
    FrozenAudio audio() const noexcept
    {
        const bool isComparable = inputHashes.size() == static_cast<std::size_t>(frameCount);
        return {grid,
                firstFrame,
                frameCount,
                {clip.channel(0), clip.channel(1)},
                isComparable ? inputHashes.data() : nullptr,
                lanes,
                nullptr};
    }

private:
    AudioClip clip;
    std::vector<std::uint64_t> inputHashes;
};

/// For a FrozenPlayer, which keeps `take` alive; null is nothing frozen.
inline FrozenAudio frozenAudioOf(std::shared_ptr<const FrozenTake> take)
{
    if (take == nullptr)
        return {};
    FrozenAudio audio = take->audio();
    audio.owner = std::move(take);
    return audio;
}
} // namespace demon
