#ifndef RUNLOOP_DAEMON_MESSAGE_ITEMS_H_
#define RUNLOOP_DAEMON_MESSAGE_ITEMS_H_

#include <cstdint>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/zero_copy_stream.h"

namespace runloop::daemon {

// What an item of a message costs, by its field; null: an unknown field.
using ItemPrice = int64_t (*)(const google::protobuf::FieldDescriptor* field);

// Goes through a message of `type` that a peer sent, without parsing it, and takes from `left` the
// price of each item in it: of what takes memory of its own once it is parsed, which may be a
// hundred bytes for two on the wire. Items are, at all depths,
//
//   messages, map entries and groups,
//   strings,
//   elements of repeated fields,
//   unknown fields: those whose number the type does not have, or has with another wire type, and
//   fields of closed enums, whose value may be unknown.
//
// False, with `left` below zero: they cost more. False, with anything else: the message is
// malformed, or nested deeper than the parser goes.
bool PriceItems(google::protobuf::io::ZeroCopyInputStream& bytes,
                const google::protobuf::Descriptor& type, ItemPrice price, int64_t& left);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_MESSAGE_ITEMS_H_
