// SPDX-License-Identifier: AGPL-3.0-or-later
#include "MidiLearn.h"

namespace demon
{
namespace
{
constexpr juce::uint32 kQuietMilliseconds = 400; // a knob that rests so long has finished its gesture
}

juce::String MidiControl::text() const
{
    return "CC " + juce::String(controller) + ", channel " + juce::String(channel);
}

MidiLearn::MidiLearn(const LaneParameters& parameters) : lanes(parameters)
{
    for (auto& value : moves)
        value = kUnmoved;
}

MidiLearn::~MidiLearn()
{
    stopTimer();
    endQuietGestures(true);
}

void MidiLearn::collect(const juce::MidiBuffer& midi) noexcept DEMON_NONBLOCKING
{
    if (!isListening.load(std::memory_order_acquire))
        return;
    for (const juce::MidiMessageMetadata message : midi)
        if (message.numBytes == 3 && (message.data[0] & 0xf0) == 0xb0 && message.data[1] < kControllers)
        {
            const int channel = message.data[0] & 0x0f;
            moves[static_cast<std::size_t>(channel * kControllers + message.data[1])].store(message.data[2],
                                                                                            std::memory_order_relaxed);
            hasMoves.store(true, std::memory_order_release);
        }
}

void MidiLearn::learn(std::size_t lane)
{
    waiting = lane;
    listenIfNeeded();
}

void MidiLearn::cancelLearning()
{
    waiting.reset();
    listenIfNeeded();
}

void MidiLearn::forget(std::size_t lane)
{
    controls.change([&](Map& map) { map.erase(lane); });
    listenIfNeeded();
}

std::optional<MidiControl> MidiLearn::controlOf(std::size_t lane) const
{
    const Map map = controls.get();
    const auto found = map.find(lane);
    return found == map.end() ? std::nullopt : std::optional(found->second);
}

void MidiLearn::setMap(const Map& wanted)
{
    controls.set(wanted);
    listenIfNeeded();
}

void MidiLearn::listenIfNeeded()
{
    const bool isNeeded = waiting.has_value() || !controls.get().empty();
    isListening.store(isNeeded, std::memory_order_release);
    if (isNeeded)
        startTimerHz(60);
    // Otherwise the timer stops itself: it belongs to the message thread, and this may not be it.
}

void MidiLearn::deliver()
{
    const bool isNeeded = isListening.load(std::memory_order_acquire);
    if (hasMoves.exchange(false, std::memory_order_acquire))
        for (int i = 0; i < kChannels * kControllers; ++i)
            if (const int value = moves[static_cast<std::size_t>(i)].exchange(kUnmoved, std::memory_order_relaxed);
                value != kUnmoved && isNeeded)
                take({i / kControllers + 1, i % kControllers}, value);
    endQuietGestures(!isNeeded);
    if (!isNeeded)
        stopTimer();
}

void MidiLearn::take(MidiControl control, int value)
{
    if (waiting)
    {
        controls.change([&](Map& map) { map[*waiting] = control; });
        waiting.reset();
    }
    for (const auto& [lane, wanted] : controls.get())
        if (wanted == control)
            move(lane, static_cast<float>(value) / 127.0f);
}

void MidiLearn::move(std::size_t lane, float proportion)
{
    const auto [gesture, isNew] = gestures.try_emplace(lane);
    if (isNew)
        lanes[lane].beginChangeGesture();
    gesture->second = juce::Time::getMillisecondCounter();
    lanes[lane].setValueNotifyingHost(proportion);
}

void MidiLearn::endQuietGestures(bool all)
{
    const juce::uint32 now = juce::Time::getMillisecondCounter();
    for (auto gesture = gestures.begin(); gesture != gestures.end();)
        if (all || now - gesture->second > kQuietMilliseconds)
        {
            lanes[gesture->first].endChangeGesture();
            gesture = gestures.erase(gesture);
        }
        else
        {
            ++gesture;
        }
}
} // namespace demon
