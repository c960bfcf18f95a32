#include "files/torch_pickle.h"

#include <gtest/gtest.h>

#include "files/pickle_bytes.h"
#include "files/safetensors_bytes.h"

namespace longhaul {
namespace {

using namespace pickle;  // the instructions

const TensorSpec kMatrix = {.name = "w", .shape = {2, 3}, .stride = {3, 1}, .storage_elements = 6};

std::string refusal(const std::string& bytes) {
  const auto tensors = parse_torch_pickle(as_bytes(bytes), "f.bin");
  if (tensors.ok()) return "accepted";
  EXPECT_EQ(tensors.status().code(), Code::kCorruptFile);
  EXPECT_TRUE(tensors.status().message().starts_with("f.bin: ")) << tensors.status().message();
  return tensors.status().message();
}

// {"w": value}
std::string one(const std::string& value) {
  return kProto + kEmptyDict + text("w") + value + kSetItem + kStop;
}

void expect_refused(const std::string& bytes, std::string_view why) {
  const std::string message = refusal(bytes);
  EXPECT_NE(message.find(why), std::string::npos) << message;
}

TEST(TorchPickle, ReadsTensorsAndParameters) {
  const auto tensors = parse_torch_pickle(
      as_bytes(
          dictionary({kMatrix,
                      {.name = "half",
                       .shape = {4},
                       .stride = {2},
                       .storage = "17",
                       .storage_elements = 9,
                       .offset = 1,
                       .type = "HalfStorage",
                       .parameter = true},
                      {.name = "brain", .storage = "2", .storage_elements = 1, .type = "BFloat16Storage"}})),
      "f.bin");
  ASSERT_TRUE(tensors.ok()) << tensors.status().message();
  ASSERT_EQ(tensors.value().size(), 3u);
  const PickledTensor& matrix = tensors.value()[0];
  EXPECT_EQ(matrix.name, "w");
  EXPECT_EQ(matrix.dtype, DType::kF32);
  EXPECT_EQ(matrix.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(matrix.stride, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(matrix.storage, "0");
  const PickledTensor& half = tensors.value()[1];
  EXPECT_EQ(half.name, "half");
  EXPECT_EQ(half.dtype, DType::kF16);
  EXPECT_EQ(half.storage, "17");
  EXPECT_EQ(half.storage_elements, 9);
  EXPECT_EQ(half.offset, 1);
  EXPECT_EQ(half.stride, (std::vector<int64_t>{2}));
  EXPECT_EQ(tensors.value()[2].dtype, DType::kBf16);
  EXPECT_TRUE(tensors.value()[2].shape.empty());
}

TEST(TorchPickle, KnowsEveryFormOfTheInstructionsItAllows) {
  // Short and long integers, memo slots, tuples of 1 to 3, an OrderedDict at the top, items one by one.
  const std::string bytes =
      kProto + global("collections", "OrderedDict") + put(300) + kEmptyTuple + kReduce + text("w") +
      global("torch._utils", "_rebuild_tensor_v2") + kMark + kMark + text("storage") + "q\x07" +
      global("torch", "FloatStorage") + text("0") + text("cuda:0") + "M" + little_endian(300, 2) + kTuple +
      kPersistentId + std::string("K\x01") + std::string("\x8a\x01\x05", 3) + kTuple1 + "K\x01" + kTuple1 +
      kFalse + get(300) + kEmptyTuple + kReduce + kTuple + kReduce + kSetItem + kStop;
  const auto tensors = parse_torch_pickle(as_bytes(bytes), "f.bin");
  ASSERT_TRUE(tensors.ok()) << tensors.status().message();
  EXPECT_EQ(tensors.value()[0].storage_elements, 300);
  EXPECT_EQ(tensors.value()[0].offset, 1);
  EXPECT_EQ(tensors.value()[0].shape, (std::vector<int64_t>{5}));
}

TEST(TorchPickle, RefusesEveryOtherGlobal) {
  const std::pair<const char*, const char*> hostile[] = {{"os", "system"},
                                                         {"posix", "system"},
                                                         {"nt", "system"},
                                                         {"subprocess", "Popen"},
                                                         {"builtins", "eval"},
                                                         {"builtins", "exec"},
                                                         {"__builtin__", "eval"},
                                                         {"builtins", "getattr"},
                                                         {"builtins", "__import__"},
                                                         {"importlib", "import_module"},
                                                         {"runpy", "_run_code"},
                                                         {"webbrowser", "open"},
                                                         {"torch", "load"},
                                                         {"torch.serialization", "load"},
                                                         {"torch._utils", "_rebuild_tensor"},
                                                         {"torch._utils", "_rebuild_tensor_v3"},
                                                         {"torch._utils", "_rebuild_parameter_with_state"},
                                                         {"torch.hub", "load"},
                                                         {"torch.jit", "load"},
                                                         {"torch", "DoubleStorage"},
                                                         {"torch", "FloatStorage.os"},
                                                         {"torch.FloatStorage", ""},
                                                         {"torch", "FloatStorage "},
                                                         {"collections", "OrderedDict.__class__"},
                                                         {"collections ", "OrderedDict"},
                                                         {"operator", "attrgetter"},
                                                         {"numpy.core.multiarray", "_reconstruct"},
                                                         {"codecs", "encode"},
                                                         {"", ""}};
  for (const auto& [module, name] : hostile) {
    const std::string wanted = std::string("\"") + module + "." + name + "\"";
    // Called, merely named, and after valid tensors.
    expect_refused(kProto + global(module, name) + text("echo x") + kTuple1 + kReduce + kStop, wanted);
    expect_refused(one(global(module, name)), wanted);
    const std::string valid = dictionary({kMatrix});
    expect_refused(valid.substr(0, valid.size() - 1) + global(module, name) + kStop, wanted);
  }
}

TEST(TorchPickle, RefusesEveryOtherInstruction) {
  const std::string allowed = "()t}su\x85\x86\x87\x88\x89KMJ\x8aXcQRqrhj.";
  for (int code = 0; code < 256; ++code) {
    if (allowed.find(static_cast<char>(code)) != std::string::npos) continue;
    char wanted[32];
    std::snprintf(wanted, sizeof wanted, "0x%02x at byte 2 is not allowed", static_cast<unsigned>(code));
    expect_refused(kProto + static_cast<char>(code) + std::string(64, '\0'), wanted);
  }
}

TEST(TorchPickle, RefusesKnownAttacks) {
  const std::string not_allowed = "is not allowed";
  const std::string command = text("echo pwned");
  // INST: (S'echo pwned'\nios\nsystem\n.
  expect_refused(kProto + kMark + command + "ios\nsystem\n" + kStop, not_allowed);
  // OBJ and NEWOBJ need a class first, which is refused already; with an allowed global they are still refused.
  expect_refused(kProto + kMark + global("collections", "OrderedDict") + command + "o" + kStop, not_allowed);
  expect_refused(kProto + global("collections", "OrderedDict") + kEmptyTuple + "\x81" + kStop, not_allowed);
  expect_refused(kProto + global("collections", "OrderedDict") + kEmptyTuple + kEmptyDict + "\x92" + kStop,
                 not_allowed);
  // STACK_GLOBAL with dotted names: what protocol 4 reaches attributes by.
  expect_refused(
      kProto + text("torch") + text("serialization.os.system") + "\x93" + command + kTuple1 + kReduce + kStop,
      not_allowed);
  // BUILD: __setstate__, or a dictionary over __dict__.
  expect_refused(kProto + empty_hooks() + kEmptyDict + text("__setstate__") +
                     global("collections", "OrderedDict") + kSetItem + "b" + kStop,
                 not_allowed);
  // EXT1, EXT2, EXT4: copyreg's registry.
  expect_refused(kProto + "\x82\x01" + kStop, not_allowed);
  expect_refused(kProto + "\x83\x01\x01" + kStop, not_allowed);
  expect_refused(kProto + std::string("\x84\x01\x00\x00\x00", 5) + kStop, not_allowed);
  // PERSID by line, POP to hide a call, DUP to double the stack.
  expect_refused(kProto + "Pstorage\n" + kStop, not_allowed);
  expect_refused(kProto + kEmptyTuple + "0" + kStop, not_allowed);
  expect_refused(kProto + kEmptyTuple + "2" + kStop, not_allowed);
  // Other protocols, and a second PROTO.
  expect_refused(std::string("\x80\x04") + kEmptyDict + kStop, "protocol 2");
  expect_refused("}.", "protocol 2");
  expect_refused(kProto + kProto + kEmptyDict + kStop, not_allowed);
  // Something behind the end, as a second pickle.
  expect_refused(dictionary({kMatrix}) + kProto + kEmptyDict + kStop, "behind the end");
}

TEST(TorchPickle, RefusesPersistentIdsThatAreNoStorage) {
  const std::string type = global("torch", "FloatStorage");
  const std::string why = "not a storage's";
  expect_refused(one(text("storage") + kPersistentId), why);
  expect_refused(one(integer(1) + kPersistentId), why);
  expect_refused(one(kEmptyTuple + kPersistentId), why);
  expect_refused(one(tuple({text("module"), type, text("0"), text("cpu"), integer(1)}) + kPersistentId), why);
  expect_refused(
      one(tuple({text("storage"), text("os.system"), text("0"), text("cpu"), integer(1)}) + kPersistentId),
      why);
  expect_refused(
      one(tuple({text("storage"), global("collections", "OrderedDict"), text("0"), text("cpu"), integer(1)}) +
          kPersistentId),
      why);
  expect_refused(one(tuple({text("storage"), type, integer(0), text("cpu"), integer(1)}) + kPersistentId), why);
  expect_refused(one(tuple({text("storage"), type, text("0"), text("cpu"), integer(-1)}) + kPersistentId), why);
  expect_refused(one(tuple({text("storage"), type, text("0"), text("cpu"), text("1")}) + kPersistentId), why);
  expect_refused(
      one(tuple({text("storage"), type, text("0"), text("cpu"), integer(1), kFalse}) + kPersistentId), why);
  for (const char* key : {"../../etc/passwd", "", "0/../1", "-1", "0x1", "0\n", "123456789012345678901"}) {
    expect_refused(one(tuple({text("storage"), type, text(key), text("cpu"), integer(1)}) + kPersistentId),
                   "no number");
  }
}

TEST(TorchPickle, RefusesCallsOfTheWrongKind) {
  const std::string rebuild = global("torch._utils", "_rebuild_tensor_v2");
  const std::string parameter = global("torch._utils", "_rebuild_parameter");
  const std::string held = storage(kMatrix);
  expect_refused(one(text("os.system") + kEmptyTuple + kReduce), "no function");
  expect_refused(one(kEmptyDict + kEmptyTuple + kReduce), "no function");
  expect_refused(one(rebuild + text("x") + kReduce), "no function");
  expect_refused(one(global("torch", "FloatStorage") + kEmptyTuple + kReduce), "calls a storage");
  expect_refused(one(global("collections", "OrderedDict") + kEmptyDict + kTuple1 + kReduce),
                 "OrderedDict arguments");
  expect_refused(one(rebuild + kEmptyTuple + kReduce), "does not write");
  expect_refused(
      one(rebuild + tuple({held, text("0"), integers({1}), integers({1}), kFalse, empty_hooks()}) + kReduce),
      "does not write");
  expect_refused(
      one(rebuild + tuple({text("0"), integer(0), integers({1}), integers({1}), kFalse, empty_hooks()}) +
          kReduce),
      "does not write");
  expect_refused(
      one(rebuild + tuple({held, integer(0), integers({1}), integers({1, 1}), kFalse, empty_hooks()}) +
          kReduce),
      "1 dimensions with 2 strides");
  expect_refused(one(rebuild +
                     tuple({held, integer(0), integers(std::vector<int64_t>(9, 1)),
                            integers(std::vector<int64_t>(9, 1)), kFalse, empty_hooks()}) +
                     kReduce),
                 "9 dimensions");
  expect_refused(
      one(rebuild + tuple({held, integer(0), integers({-1}), integers({1}), kFalse, empty_hooks()}) + kReduce),
      "whole numbers >= 0");
  expect_refused(
      one(rebuild + tuple({held, integer(0), integers({1}), integers({-1}), kFalse, empty_hooks()}) + kReduce),
      "whole numbers >= 0");
  expect_refused(
      one(rebuild + tuple({held, integer(0), tuple({text("1")}), integers({1}), kFalse, empty_hooks()}) +
          kReduce),
      "whole numbers >= 0");
  expect_refused(
      one(rebuild + tuple({held, integer(-4), integers({1}), integers({1}), kFalse, empty_hooks()}) + kReduce),
      "before its storage");
  expect_refused(one(parameter + tuple({held, kTrue, empty_hooks()}) + kReduce),
                 "something else than a tensor");
  expect_refused(one(parameter + tuple({tensor(kMatrix), integer(1), empty_hooks()}) + kReduce),
                 "something else than a tensor");
}

TEST(TorchPickle, RefusesBombs) {
  // A memo slot past any memory, and many of them.
  expect_refused(kProto + kEmptyDict + put(0xffffffff) + kStop, "remembers more");
  expect_refused(kProto + kEmptyDict + get(0xfffffff0) + kStop, "never remembered");
  // Billion laughs: each tuple holds the one before three times. Shared, not expanded: it costs its own size.
  std::string laughs = kProto + kEmptyTuple + put(0);
  for (uint32_t i = 1; i < 1000; ++i) laughs += get(i - 1) + get(i - 1) + get(i - 1) + kTuple3 + put(i);
  expect_refused(laughs + kStop, "not a dictionary");
  // A tuple in a tuple, a million deep: nothing is freed recursively.
  expect_refused(kProto + kEmptyTuple + std::string(1'000'000, '\x85') + kStop, "not a dictionary");
  // Values and marks without end.
  expect_refused(kProto + std::string(kPickleMaxStack + 1, ')') + kStop, "stack too deep");
  expect_refused(kProto + std::string(kPickleMaxStack + 1, '(') + kStop, "stack too deep");
  std::string tuples = kProto;
  for (size_t i = 0; i <= kPickleMaxItems / 1000; ++i) tuples += kMark + std::string(1000, ')') + kTuple;
  expect_refused(tuples + kStop, "more tuples");
  std::string items = kProto + kEmptyDict;
  for (size_t i = 0; i <= kPickleMaxTensors / 500; ++i) items += kMark + std::string(1000, ')') + kSetItems;
  expect_refused(items + kStop, "more items");
  expect_refused(kProto + std::string(kPickleMaxBytes, '}') + kStop, "more than 33554432");
  expect_refused(kProto + std::string("\x8a\xff") + std::string(255, '\1') + kStop, "more than 64 bits");
  // A text that claims 4 GB.
  expect_refused(kProto + "X" + little_endian(0xffffffff, 4) + "x" + kStop, "ends inside an instruction");
}

TEST(TorchPickle, RefusesBrokenPrograms) {
  for (const std::string& code : {kReduce, kPersistentId, kTuple1, kTuple2, kTuple3, kSetItem, put(0)}) {
    EXPECT_NE(refusal(kProto + code + kStop), "accepted");
    EXPECT_NE(refusal(kProto + kEmptyDict + kMark + code + kStop), "accepted");  // nothing above the mark
  }
  expect_refused(kProto + kTuple + kStop, "no mark");
  expect_refused(kProto + kEmptyDict + kSetItems + kStop, "no mark");
  expect_refused(kProto + kEmptyDict + kMark + text("a") + kSetItems + kStop, "pairs of key and value");
  expect_refused(kProto + kEmptyTuple + text("a") + text("b") + kSetItem + kStop, "no dictionary");
  expect_refused(kProto + kStop, "not a dictionary");
  expect_refused(kProto + kEmptyDict + kMark + kStop, "not a dictionary");
  expect_refused(kProto + kEmptyDict + kEmptyDict + kStop, "not a dictionary");
  expect_refused(one(text("x")), "\"w\" is not a tensor");
  expect_refused(one(storage(kMatrix)), "\"w\" is not a tensor");
  expect_refused(one(kEmptyDict), "\"w\" is not a tensor");
  expect_refused(kProto + kEmptyDict + integer(1) + tensor(kMatrix) + kSetItem + kStop, "no text");
  expect_refused(dictionary({kMatrix, kMatrix}), "\"w\" is there twice");
  const std::string valid = dictionary({kMatrix});
  for (size_t length = 0; length < valid.size(); ++length) {
    EXPECT_NE(refusal(valid.substr(0, length)), "accepted") << length;
  }
}

}  // namespace
}  // namespace longhaul
