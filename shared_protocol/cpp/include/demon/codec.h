// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "demon/decoder.h"
#include "demon/encoder.h"

/// The bytes of a message, both ways:
///     Parts encode(const Message&);
///     std::variant<Message, Fault> decode(parts, PayloadShape);
