#include "runloop/daemon/message_items.h"

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"

namespace runloop::daemon {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kMaxDepth = 101;  // as the parser: 100 inside the outermost

class Walk {
 public:
  Walk(CodedInputStream& in, ItemPrice price, int64_t& left)
      : in_(in), price_(price), left_(left) {}

  // `type` is null inside an unknown group. Ends at the tag `end`, or, if that is 0, at the limit.
  bool Message(const Descriptor* type, uint32_t end) {
    if (++depth_ > kMaxDepth) return false;
    while (const uint32_t tag = in_.ReadTag()) {
      if (tag == end) {
        --depth_;
        return true;
      }
      if (!Field(type, tag)) return false;
    }
    --depth_;
    return end == 0 && in_.ConsumedEntireMessage();
  }

 private:
  // How a field stands on the wire.
  enum class Form { kUnknown, kPlain, kPacked };

  static const FieldDescriptor* Find(const Descriptor* type, int number) {
    if (type == nullptr) return nullptr;
    const FieldDescriptor* const field = type->FindFieldByNumber(number);
    if (field != nullptr || !type->IsExtensionNumber(number)) return field;
    return google::protobuf::DescriptorPool::generated_pool()->FindExtensionByNumber(type, number);
  }

  static Form FormOf(const FieldDescriptor* field, WireFormatLite::WireType wire) {
    if (field == nullptr) return Form::kUnknown;
    const auto own =
        WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field->type()));
    if (wire == own) return Form::kPlain;
    const bool packed = wire == WireFormatLite::WIRETYPE_LENGTH_DELIMITED && field->is_packable();
    return packed ? Form::kPacked : Form::kUnknown;
  }

  static bool IsItem(const FieldDescriptor& field) {
    const bool closed_enum = field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM &&
                             field.file()->syntax() == FileDescriptor::SYNTAX_PROTO2;
    return field.is_repeated() || closed_enum ||
           field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE ||
           field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  }

  bool Pay(const FieldDescriptor* field) { return (left_ -= price_(field)) >= 0; }

  bool Field(const Descriptor* type, uint32_t tag) {
    const WireFormatLite::WireType wire = WireFormatLite::GetTagWireType(tag);
    const FieldDescriptor* field = Find(type, WireFormatLite::GetTagFieldNumber(tag));
    const Form form = FormOf(field, wire);
    if (form == Form::kPacked) return Packed(*field);
    if (form == Form::kUnknown) field = nullptr;
    if ((field == nullptr || IsItem(*field)) && !Pay(field)) return false;
    const bool is_message =
        field != nullptr && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    switch (wire) {
      case WireFormatLite::WIRETYPE_START_GROUP:
        return Message(is_message ? field->message_type() : nullptr,
                       WireFormatLite::MakeTag(WireFormatLite::GetTagFieldNumber(tag),
                                               WireFormatLite::WIRETYPE_END_GROUP));
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED: {
        int size;
        if (!in_.ReadVarintSizeAsInt(&size)) return false;
        if (!is_message) return in_.Skip(size);
        const CodedInputStream::Limit limit = in_.PushLimit(size);
        if (!Message(field->message_type(), 0) || in_.BytesUntilLimit() != 0) return false;
        in_.PopLimit(limit);
        return true;
      }
      default:
        return Scalar(wire);
    }
  }

  bool Scalar(WireFormatLite::WireType wire) {
    uint64_t ignored;
    switch (wire) {
      case WireFormatLite::WIRETYPE_VARINT:
        return in_.ReadVarint64(&ignored);
      case WireFormatLite::WIRETYPE_FIXED64:
        return in_.Skip(8);
      case WireFormatLite::WIRETYPE_FIXED32:
        return in_.Skip(4);
      default:
        return false;
    }
  }

  bool Packed(const FieldDescriptor& field) {
    const auto wire =
        WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field.type()));
    int size;
    if (!in_.ReadVarintSizeAsInt(&size)) return false;
    const CodedInputStream::Limit limit = in_.PushLimit(size);
    while (in_.BytesUntilLimit() > 0) {
      if (!Pay(&field) || !Scalar(wire)) return false;
    }
    in_.PopLimit(limit);
    return true;
  }

  CodedInputStream& in_;
  const ItemPrice price_;
  int64_t& left_;
  int depth_ = 0;
};

}  // namespace

bool PriceItems(google::protobuf::io::ZeroCopyInputStream& bytes, const Descriptor& type,
                ItemPrice price, int64_t& left) {
  CodedInputStream in(&bytes);
  return Walk(in, price, left).Message(&type, 0);
}

}  // namespace runloop::daemon
