// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <atomic>
#include <juce_audio_processors/juce_audio_processors.h>
#include <map>
#include <optional>

#include "Guarded.h"
#include "LaneParameters.h"
#include "core/Realtime.h"

namespace demon
{
/// A continuous controller of one MIDI channel.
struct MidiControl
{
    int channel = 1; ///< 1 to 16
    int controller = 0;
    bool operator==(const MidiControl& o) const { return channel == o.channel && controller == o.controller; }
    juce::String text() const; ///< "CC 74, channel 1"
};

/// Lanes that follow MIDI controllers. The audio thread hands controllers over; the message thread moves the
/// parameters, in gestures, so that the host records them and one sweep is one undo step.
///
/// Message thread only, but collect (audio thread) and the map, which any other thread may read and replace.
class MidiLearn : private juce::Timer
{
public:
    using Map = std::map<std::size_t, MidiControl>; ///< by lane

    explicit MidiLearn(const LaneParameters& parameters);
    ~MidiLearn() override;

    /// Audio thread, wait-free: the block's controllers.
    void collect(const juce::MidiBuffer& midi) noexcept DEMON_NONBLOCKING;

    void learn(std::size_t lane); ///< the next controller that moves is this lane's
    void cancelLearning();
    std::optional<std::size_t> learning() const { return waiting; }

    void forget(std::size_t lane);
    std::optional<MidiControl> controlOf(std::size_t lane) const;

    Map map() const { return controls.get(); }
    void setMap(const Map& wanted);

    /// Moves the parameters by what has come since the last call; the timer calls it 60 times a second.
    void deliver();

private:
    static constexpr int kChannels = 16, kControllers = 120;
    static constexpr std::int16_t kUnmoved = -1;

    void timerCallback() override { deliver(); }
    void listenIfNeeded();
    void take(MidiControl control, int value);
    void move(std::size_t lane, float proportion);
    void endQuietGestures(bool all);

    const LaneParameters& lanes;
    std::array<std::atomic<std::int16_t>, kChannels * kControllers> moves; ///< newest values: a flood never fills it
    std::atomic<bool> hasMoves{false};
    std::atomic<bool> isListening{false};
    Guarded<Map> controls;
    std::map<std::size_t, juce::uint32> gestures; ///< milliseconds of the last move, by lane
    std::optional<std::size_t> waiting;
};
} // namespace demon
