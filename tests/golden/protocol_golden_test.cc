// Keeps version 1 of the protocol what it is on the wire. Each .txtpb in this folder is a message
// and the .hex beside it are its bytes; enum_values.txt and methods.txt hold what else is sent as a
// number or a name. What is written there never changes: a peer of yesterday relies on it.
//
// After adding a field, set it in the message's .txtpb (or in a new one), then run
// `protocol_golden_test --update`, which adds what is missing and refuses to change what is there.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/unknown_field_set.h"
#include "google/protobuf/util/message_differencer.h"
#include "google/protobuf/wire_format_lite.h"
#include "runloop/v1/control.pb.h"
#include "runloop/v1/diagnostics.pb.h"
#include "runloop/v1/dispatcher.pb.h"
#include "runloop/v1/error_reason.pb.h"
#include "runloop/v1/notifications.pb.h"
#include "runloop/v1/session.pb.h"

namespace runloop {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::Message;
using google::protobuf::MessageFactory;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;
using google::protobuf::TextFormat;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::ArrayInputStream;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;
using google::protobuf::util::MessageDifferencer;

namespace fs = std::filesystem;

const fs::path kSource = RUNLOOP_SOURCE_DIR;
const fs::path kFolder = kSource / "tests/golden";
constexpr char kTypeLine[] = "# proto-message: ";
// Bytes of one field in a line of a .hex file; the rest goes on below, indented.
constexpr size_t kLineBytes = 30;
// No field of the protocol will have this number.
constexpr int kUnknownField = 12345;

// ---- files ----

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool WriteFile(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (file.good()) return true;
  fprintf(stderr, "cannot write %s\n", path.c_str());
  return false;
}

std::vector<std::string> Lines(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipWhitespace());
}

// ---- bytes ----

std::string Serialize(const Message& message) {
  std::string bytes;
  StringOutputStream stream(&bytes);
  CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

// Hexadecimal, each field of the message on a line of its own.
std::string ToHex(const std::string& bytes) {
  std::string hex;
  CodedInputStream input(reinterpret_cast<const uint8_t*>(bytes.data()),
                         static_cast<int>(bytes.size()));
  size_t from = 0;
  while (const uint32_t tag = input.ReadTag()) {
    WireFormatLite::SkipField(&input, tag);
    const size_t to = input.CurrentPosition();
    for (size_t i = from; i < to; ++i) {
      const size_t place = (i - from) % kLineBytes;
      if (place != 0) {
        hex += ' ';
      } else if (i != from) {
        hex += "\n   ";
      }
      absl::StrAppend(&hex, absl::Hex(static_cast<uint8_t>(bytes[i]), absl::kZeroPad2));
    }
    hex += '\n';
    from = to;
  }
  return hex;
}

std::string FromHex(std::string hex) {
  std::erase_if(hex, [](char c) { return c == ' ' || c == '\n'; });
  return absl::HexStringToBytes(hex);
}

// ---- the schema ----

// Every file of runloop.v1, also one that somebody has added and not linked in here: that is null.
std::map<std::string, const FileDescriptor*> SchemaFiles() {
  // Makes the linker keep both libraries.
  v1::SessionRequest::descriptor();
  v1::GetStatusRequest::descriptor();
  std::map<std::string, const FileDescriptor*> files;
  for (const auto& entry : fs::directory_iterator(kSource / "proto/runloop/v1")) {
    if (entry.path().extension() != ".proto") continue;
    const std::string name = absl::StrCat("runloop/v1/", entry.path().filename().string());
    files[name] = DescriptorPool::generated_pool()->FindFileByName(name);
  }
  return files;
}

void AddMessages(const Descriptor* message, std::vector<const Descriptor*>& messages) {
  if (message->options().map_entry()) return;
  messages.push_back(message);
  for (int i = 0; i < message->nested_type_count(); ++i) {
    AddMessages(message->nested_type(i), messages);
  }
}

std::vector<const Descriptor*> SchemaMessages() {
  std::vector<const Descriptor*> messages;
  for (const auto& [name, file] : SchemaFiles()) {
    if (file == nullptr) continue;
    for (int i = 0; i < file->message_type_count(); ++i) {
      AddMessages(file->message_type(i), messages);
    }
  }
  return messages;
}

// `runloop.v1.Transport: TRANSPORT_STREAM = 1`
std::vector<std::string> EnumLines() {
  std::vector<std::string> lines;
  const auto add = [&lines](const EnumDescriptor* type) {
    for (int i = 0; i < type->value_count(); ++i) {
      lines.push_back(absl::StrCat(type->full_name(), ": ", type->value(i)->name(), " = ",
                                   type->value(i)->number()));
    }
  };
  for (const auto& [name, file] : SchemaFiles()) {
    if (file == nullptr) continue;
    for (int i = 0; i < file->enum_type_count(); ++i) add(file->enum_type(i));
  }
  for (const Descriptor* message : SchemaMessages()) {
    for (int i = 0; i < message->enum_type_count(); ++i) add(message->enum_type(i));
  }
  return lines;
}

// `runloop.v1.Control/Drain: runloop.v1.DrainRequest -> runloop.v1.DrainResponse`
std::vector<std::string> MethodLines() {
  std::vector<std::string> lines;
  for (const auto& [name, file] : SchemaFiles()) {
    if (file == nullptr) continue;
    for (int i = 0; i < file->service_count(); ++i) {
      const ServiceDescriptor* service = file->service(i);
      for (int j = 0; j < service->method_count(); ++j) {
        const MethodDescriptor* method = service->method(j);
        lines.push_back(absl::StrCat(
            service->full_name(), "/", method->name(), ": ",
            method->client_streaming() ? "stream " : "", method->input_type()->full_name(), " -> ",
            method->server_streaming() ? "stream " : "", method->output_type()->full_name()));
      }
    }
  }
  return lines;
}

struct Listing {
  std::string file;
  std::vector<std::string> lines;  // what the schema has now
};

std::vector<Listing> Listings() {
  return {{"enum_values.txt", EnumLines()}, {"methods.txt", MethodLines()}};
}

// ---- the instances ----

struct Golden {
  std::string name;
  std::string error;  // why there is no message
  std::unique_ptr<Message> message;
  fs::path hex_path;
};

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text.empty()) text = absl::StrCat(line + 1, ":", column + 1, ": ", message);
  }
  std::string text;
};

Golden ReadGolden(const fs::path& path) {
  Golden golden{.name = path.stem().string()};
  golden.hex_path = path;
  golden.hex_path.replace_extension(".hex");
  const std::string text = ReadFile(path);
  if (text.rfind(kTypeLine, 0) != 0) {
    golden.error = absl::StrCat("its first line is not '", kTypeLine, "package.Message'");
    return golden;
  }
  const size_t from = sizeof(kTypeLine) - 1;
  const std::string type = text.substr(from, text.find('\n') - from);
  const Descriptor* descriptor = DescriptorPool::generated_pool()->FindMessageTypeByName(type);
  if (descriptor == nullptr) {
    golden.error = absl::StrCat("the protocol has no message ", type);
    return golden;
  }
  golden.message.reset(MessageFactory::generated_factory()->GetPrototype(descriptor)->New());
  TextFormat::Parser parser;
  FirstError error;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(text, golden.message.get())) {
    golden.error = error.text;
    golden.message = nullptr;
  }
  return golden;
}

std::vector<Golden> ReadGoldens() {
  SchemaFiles();  // links them in
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    if (entry.path().extension() == ".txtpb") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Golden> goldens;
  for (const fs::path& path : paths) goldens.push_back(ReadGolden(path));
  return goldens;
}

// Calls `visit` with the message and every message inside it, but not with the entries of maps.
template <typename Visit>
void ForEachMessage(Message& message, const Visit& visit) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field->is_map()) continue;
    if (!field->is_repeated()) {
      ForEachMessage(*message.GetReflection()->MutableMessage(&message, field), visit);
      continue;
    }
    const int count = message.GetReflection()->FieldSize(message, field);
    for (int i = 0; i < count; ++i) {
      ForEachMessage(*message.GetReflection()->MutableRepeatedMessage(&message, field, i), visit);
    }
  }
  visit(message);
}

// ---- tests ----

TEST(ProtocolGoldenTest, EveryProtoFileIsLinkedIn) {
  const auto files = SchemaFiles();
  EXPECT_FALSE(files.empty());
  for (const auto& [name, file] : files) {
    EXPECT_NE(file, nullptr) << name << " is not linked into this test: add its library to DEPS";
  }
}

TEST(ProtocolGoldenTest, EveryMessageSerializesToItsGoldenBytes) {
  for (const Golden& golden : ReadGoldens()) {
    SCOPED_TRACE(golden.name);
    ASSERT_EQ(golden.error, "");
    ASSERT_TRUE(fs::exists(golden.hex_path)) << "run protocol_golden_test --update";
    EXPECT_EQ(ToHex(Serialize(*golden.message)), ReadFile(golden.hex_path));
  }
}

TEST(ProtocolGoldenTest, EveryMessageParsesFromItsGoldenBytes) {
  for (const Golden& golden : ReadGoldens()) {
    SCOPED_TRACE(golden.name);
    ASSERT_EQ(golden.error, "");
    std::unique_ptr<Message> parsed(golden.message->New());
    ASSERT_TRUE(parsed->ParseFromString(FromHex(ReadFile(golden.hex_path))));
    std::string difference;
    MessageDifferencer differencer;
    differencer.ReportDifferencesToString(&difference);
    EXPECT_TRUE(differencer.Compare(*golden.message, *parsed)) << difference;
    ForEachMessage(*parsed, [](Message& message) {
      EXPECT_TRUE(message.GetReflection()->GetUnknownFields(message).empty())
          << message.GetTypeName() << " does not know a field of its own golden bytes";
    });
  }
}

TEST(ProtocolGoldenTest, BytesWithoutAMessageAreNotLeftBehind) {
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    if (entry.path().extension() != ".hex") continue;
    EXPECT_TRUE(fs::exists(fs::path(entry.path()).replace_extension(".txtpb"))) << entry.path();
  }
}

TEST(ProtocolGoldenTest, EveryFieldOfEveryMessageIsSetInAGoldenInstanceOfThatMessage) {
  std::set<const FieldDescriptor*> covered;
  std::set<const Descriptor*> instances;
  for (const Golden& golden : ReadGoldens()) {
    ASSERT_EQ(golden.error, "") << golden.name;
    std::vector<const FieldDescriptor*> fields;
    golden.message->GetReflection()->ListFields(*golden.message, &fields);
    covered.insert(fields.begin(), fields.end());
    instances.insert(golden.message->GetDescriptor());
  }
  const std::vector<const Descriptor*> messages = SchemaMessages();
  EXPECT_FALSE(messages.empty());
  for (const Descriptor* message : messages) {
    EXPECT_TRUE(instances.contains(message)) << message->full_name() << " has no golden instance";
    for (int i = 0; i < message->field_count(); ++i) {
      EXPECT_TRUE(covered.contains(message->field(i)))
          << message->field(i)->full_name() << " is set in no golden instance: set it in a .txtpb, "
          << "then run protocol_golden_test --update";
    }
  }
}

TEST(ProtocolGoldenTest, EnumValuesAndMethodsAreThoseThatAreListed) {
  for (const Listing& listing : Listings()) {
    EXPECT_FALSE(listing.lines.empty());
    EXPECT_THAT(Lines(ReadFile(kFolder / listing.file)),
                testing::UnorderedElementsAreArray(listing.lines))
        << listing.file << ": what was added comes in by protocol_golden_test --update; what was "
        << "there must stay";
  }
}

TEST(ProtocolGoldenTest, FieldsOfANewerVersionAreIgnoredAndKept) {
  for (const Golden& golden : ReadGoldens()) {
    SCOPED_TRACE(golden.name);
    ASSERT_EQ(golden.error, "");
    std::unique_ptr<Message> newer(golden.message->New());
    newer->CopyFrom(*golden.message);
    int added = 0;
    ForEachMessage(*newer, [&added](Message& message) {
      message.GetReflection()->MutableUnknownFields(&message)->AddLengthDelimited(kUnknownField,
                                                                                  "from later");
      ++added;
    });
    const std::string bytes = Serialize(*newer);

    std::unique_ptr<Message> parsed(golden.message->New());
    ASSERT_TRUE(parsed->ParseFromString(bytes));
    EXPECT_EQ(Serialize(*parsed), bytes);
    int kept = 0;
    ForEachMessage(*parsed, [&kept](Message& message) {
      kept += message.GetReflection()->GetUnknownFields(message).field_count();
    });
    EXPECT_EQ(kept, added);
    parsed->DiscardUnknownFields();
    EXPECT_EQ(Serialize(*parsed), Serialize(*golden.message));
  }
}

TEST(ProtocolGoldenTest, AnEnumValueOfANewerVersionIsKept) {
  v1::Hello hello;
  ASSERT_TRUE(hello.ParseFromString(FromHex("1a 02 63 01")));
  ASSERT_EQ(hello.transports_size(), 2);
  EXPECT_EQ(static_cast<int>(hello.transports(0)), 99);
  EXPECT_EQ(hello.transports(1), v1::TRANSPORT_STREAM);
}

// ---- --update ----

bool UpdateBytes(const Golden& golden) {
  if (golden.message == nullptr) {
    fprintf(stderr, "%s.txtpb: %s\n", golden.name.c_str(), golden.error.c_str());
    return false;
  }
  const std::string bytes = Serialize(*golden.message);
  if (fs::exists(golden.hex_path)) {
    const std::string before = FromHex(ReadFile(golden.hex_path));
    if (bytes == before) return true;
    if (bytes.rfind(before, 0) != 0) {
      fprintf(stderr,
              "%s.hex: refused, since bytes that are there would change:\n  from\n%s  to\n%s"
              "  Put new fields into a new .txtpb, or undo the change of the protocol.\n",
              golden.name.c_str(), ToHex(before).c_str(), ToHex(bytes).c_str());
      return false;
    }
  }
  printf("%s.hex\n", golden.name.c_str());
  return WriteFile(golden.hex_path, ToHex(bytes));
}

bool UpdateListing(const Listing& listing) {
  const fs::path path = kFolder / listing.file;
  std::string text = ReadFile(path);
  std::vector<std::string> listed = Lines(text);
  bool ok = true;
  for (const std::string& line : listed) {
    if (std::count(listing.lines.begin(), listing.lines.end(), line) > 0) continue;
    fprintf(stderr, "%s: refused, since this is no longer so: %s\n", listing.file.c_str(),
            line.c_str());
    ok = false;
  }
  if (!ok) return false;
  const std::string before = text;
  for (const std::string& line : listing.lines) {
    if (std::count(listed.begin(), listed.end(), line) == 0) absl::StrAppend(&text, line, "\n");
  }
  if (text == before) return true;
  printf("%s\n", listing.file.c_str());
  return WriteFile(path, text);
}

int Update() {
  bool ok = true;
  for (const Golden& golden : ReadGoldens()) ok = UpdateBytes(golden) && ok;
  for (const Listing& listing : Listings()) ok = UpdateListing(listing) && ok;
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace runloop

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc == 2 && std::string(argv[1]) == "--update") return runloop::Update();
  if (argc > 1) {
    fprintf(stderr, "usage: protocol_golden_test [--update] [--gtest_...]\n");
    return 2;
  }
  return RUN_ALL_TESTS();
}
