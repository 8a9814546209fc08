// SPDX-License-Identifier: AGPL-3.0-or-later
// What only loops need: clips, their edits, their takes, commits; and references.
#include <algorithm>
#include <utility>

#include "LinkTimes.h"
#include "TrackClient.h"

namespace demon
{
void TrackClient::openClip(const ClipSource& newClip)
{
    loop = newClip;
    records.emplace_back(loop.epoch, EpochKind::loop, loop.source, loop.lanes);
}

void TrackClient::accept(const LaneEdit& edit)
{
    if (edit.epoch != loop.epoch || loop.lanes == nullptr)
        return;
    loop.lanes->apply(edit);
    ++editsTaken;
    edits.push(edit);
    if (editedAt == 0 && !edits.isEmpty())
    {
        editedAt = lastTick;
        takeWhenEdited = 0;
    }
}

/// A commit of the lanes as they are at this moment; without its clip there is nothing to wait for.
void TrackClient::beginCommit(const FeedItem& item)
{
    if (item.of != loop.epoch || loop.source == nullptr)
        return reportError(error::clip, "there is no clip to bounce: capture one first");
    records.emplace_back(item.epoch, EpochKind::commit, loop.source, std::make_shared<LaneTable>(*loop.lanes));
    if (recorder == nullptr)
        return;
    recorder->begin(item.epoch, sampleRate, loop.source->startSample(), true);
    recorder->end(item.epoch, loop.source->endFrame(), true);
}

/// The input of a commit goes to the recorder frame by frame, together with its result: all of a long clip at once
/// would be more than the disk takes in time.
void TrackClient::recordInput(const EpochRecord& record, std::int64_t frame)
{
    const auto length = static_cast<std::size_t>(grid.length);
    std::vector<float> audio;
    audio.reserve(2 * length);
    for (std::size_t channel = 0; channel < 2; ++channel)
    {
        const float* samples = record.source()->at(frame, channel);
        audio.insert(audio.end(), samples, samples + length);
    }
    recorder->feed(record.id, frame, audio, record.lanesAt(frame));
}

/// What there is of an epoch is kept.
void TrackClient::stopRecording(const EpochRecord& record)
{
    if (recorder != nullptr && !record.isLoop())
        recorder->close(record.id);
}

void TrackClient::release(std::int32_t epoch)
{
    const auto isOfEpoch = [epoch](const auto& one) { return one.epoch == epoch; };
    const auto record =
        std::find_if(records.begin(), records.end(), [epoch](const EpochRecord& r) { return r.id == epoch; });
    if (record != records.end())
    {
        if (record->hasBegun)
            outbox.emplace_back(Drop{epoch});
        stopRecording(*record);
        records.erase(record);
    }
    wetFrames.erase(std::remove_if(wetFrames.begin(), wetFrames.end(), isOfEpoch), wetFrames.end());
    takes.erase(std::remove_if(takes.begin(), takes.end(), isOfEpoch), takes.end());
    if (loop.epoch == epoch)
    {
        loop = {};
        edits.clear();
        published.take = 0;
    }
}

/// Takes of a clip come in any order of frames; of each frame only the newest is kept.
void TrackClient::takeLoopWindow(EpochRecord& record, const Window& message, std::int64_t now)
{
    progressAt = now;
    const std::int64_t take = takesBefore + message.take; // an engine that was restarted counts from one again
    const std::int64_t last = message.frame + message.count;
    if (message.frame < record.firstFrame || last > record.keptEnd())
        return;
    takes.erase(std::remove_if(takes.begin(), takes.end(),
                               [&](const WetFrame& old)
                               { return old.epoch == record.id && old.frame >= message.frame && old.frame < last; }),
                takes.end());
    const auto length = static_cast<std::size_t>(grid.length);
    const std::size_t channelStride = static_cast<std::size_t>(message.count) * length;
    for (std::int64_t f = message.frame; f < last; ++f)
    {
        WetFrame frame{record.id, f, std::vector<float>(2 * length), static_cast<std::int32_t>(take)};
        const float* left = message.audio.data() + static_cast<std::size_t>(f - message.frame) * length;
        std::copy_n(left, length, frame.audio.begin());
        std::copy_n(left + channelStride, length, frame.audio.begin() + static_cast<std::ptrdiff_t>(length));
        takes.push_back(std::move(frame));
        ++published.windows;
    }
    published.take = std::max(published.take, take);
    if (takeWhenEdited != 0 && take > takeWhenEdited)
    {
        published.controlNanoseconds = now - editedAt;
        editedAt = takeWhenEdited = 0;
    }
}

void TrackClient::on(const Edited& message, std::int64_t)
{
    if (message.epoch != loop.epoch)
        return;
    edits.acknowledge(message.revision);
    if (editedAt != 0 && takeWhenEdited == 0)
        takeWhenEdited = std::max<std::int64_t>(published.take, 1);
}

void TrackClient::sendEdits(std::int64_t now)
{
    const EpochRecord* record = find(loop.epoch);
    if (record == nullptr || !record->endSent) // an edit of what is still being fed would come too early
        return;
    Edit message;
    if (edits.take(loop.epoch, record->firstFrame, now, message))
        outbox.emplace_back(std::move(message));
}

/// True when `text` names a reference whose audio is known here: it will be sent.
bool TrackClient::noteWanted(const std::string& text)
{
    const auto named = std::find_if(references.begin(), references.end(),
                                    [&](const auto& one) { return text.find(one->hash) != std::string::npos; });
    if (named == references.end())
        return false;
    wantedReferences.insert((*named)->hash);
    return true;
}

/// The audio of the references that the engine has asked for.
void TrackClient::sendReferences()
{
    for (const std::string& hash : std::exchange(wantedReferences, {}))
    {
        const auto known =
            std::find_if(references.begin(), references.end(), [&](const auto& one) { return one->hash == hash; });
        if (known == references.end())
            continue;
        const ReferenceAudio& reference = **known;
        const std::size_t total = reference.samples();
        for (std::size_t first = 0; first < total; first += kMaxReferencePiece)
        {
            const std::size_t count = std::min<std::size_t>(kMaxReferencePiece, total - first);
            Reference piece;
            piece.hash = hash;
            piece.rate = reference.rate;
            piece.total = static_cast<std::int64_t>(total);
            piece.first = static_cast<std::int64_t>(first);
            piece.count = static_cast<std::int64_t>(count);
            piece.packing = published.engine.packing;
            for (std::size_t channel = 0; channel < 2; ++channel)
            {
                const auto from = reference.audio.begin() + static_cast<std::ptrdiff_t>(channel * total + first);
                piece.audio.insert(piece.audio.end(), from, from + static_cast<std::ptrdiff_t>(count));
            }
            outbox.emplace_back(std::move(piece));
        }
    }
}
} // namespace demon
