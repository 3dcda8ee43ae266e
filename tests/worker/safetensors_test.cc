#include "worker/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_files.h"

namespace varve {
namespace {

using testing::HasSubstr;

constexpr const char* kTwoTensors =
    R"({"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}})";

class SafetensorsFile : public testing::Test {
 protected:
  Result<SafetensorsModel> Open(const std::string& bytes) {
    WriteText(directory_.File("model.safetensors"), bytes);
    return SafetensorsModel::OpenFile(directory_.File("model.safetensors"));
  }
  void ExpectRefused(const std::string& bytes, const std::string& reason) {
    const Result<SafetensorsModel> opened = Open(bytes);
    ASSERT_ERROR(opened, ErrorCode::kBadModel);
    EXPECT_THAT(opened.error().message, HasSubstr(reason));
    EXPECT_THAT(opened.error().message, HasSubstr("model.safetensors"));
  }

  TempDir directory_;
};

TEST_F(SafetensorsFile, ViewsTensors) {
  const Result<SafetensorsModel> opened =
      Open(Safetensors(kTwoTensors, std::string("\0\0\x80\x3f\0\0\0\x40\x80\x3f\0\0", 12)));
  ASSERT_OK(opened);
  const Tensor& a = opened->tensors().at("a");
  EXPECT_EQ(a.type, TensorType::kF32);
  EXPECT_EQ(a.shape, (std::vector<size_t>{2, 1}));
  float values[2];
  std::memcpy(values, a.bytes.data(), sizeof(values));
  EXPECT_EQ(values[0], 1.0F);
  EXPECT_EQ(values[1], 2.0F);
  EXPECT_EQ(opened->tensors().at("b").bytes.size(), 4U);
  EXPECT_EQ(opened->total_bytes(), 12U);
}

TEST_F(SafetensorsFile, TakesMetadataScalarsAndEmptyTensors) {
  const Result<SafetensorsModel> opened = Open(Safetensors(
      R"({"__metadata__":{"format":"pt"},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]}})",
      std::string(8, '\0')));
  ASSERT_OK(opened);
  EXPECT_EQ(opened->tensors().size(), 2U);
  EXPECT_TRUE(opened->tensors().at("e").bytes.empty());
}

TEST_F(SafetensorsFile, RefusesBrokenHeaders) {
  ExpectRefused("", "model.safetensors");
  ExpectRefused("1234567", "too short");
  ExpectRefused(std::string(8, '\xff'), "header of");
  ExpectRefused(std::string("\x10\0\0\0\0\0\0\0{}", 10), "header of 16 bytes");
  ExpectRefused(Safetensors("", ""), "not a JSON object");
  ExpectRefused(Safetensors("{", ""), "not a JSON object");
  ExpectRefused(Safetensors("[]", ""), "not a JSON object");
  ExpectRefused(Safetensors(std::string(100000, '['), ""), "not a JSON object");
}

TEST_F(SafetensorsFile, RefusesBrokenTensorsByName) {
  struct Case {
    const char* entry;
    const char* reason;
  };
  const Case cases[] = {
      {R"(7)", "must have dtype"},
      {R"({"dtype":"F32","shape":[2]})", "must have dtype"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1})", "nothing else"},
      {R"({"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]})", "F8_E4M3"},
      {R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})", "dtype"},
      {R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})", "shape"},
      {R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", "shape"},
      {R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})", "shape"},
      {R"({"dtype":"F32","shape":["2"],"data_offsets":[0,8]})", "shape"},
      {R"({"dtype":"F32","shape":{"n":2},"data_offsets":[0,8]})", "shape"},
      {R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]})", "shape"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})", "shape"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", "data_offsets"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":8})", "data_offsets"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", "data_offsets"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", "data_offsets"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,16]})", "outside the 8 bytes"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]})", "outside"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})", "span 8 bytes"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", "span 4 bytes"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", "4 bytes before it"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.entry);
    ExpectRefused(
        Safetensors(std::string(R"({"layer.weight":)") + c.entry + "}", std::string(8, '\0')),
        c.reason);
    ExpectRefused(
        Safetensors(std::string(R"({"layer.weight":)") + c.entry + "}", std::string(8, '\0')),
        "layer.weight");
  }
}

TEST_F(SafetensorsFile, RefusesTensorsThatDoNotTileTheData) {
  ExpectRefused(
      Safetensors(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
          std::string(12, '\0')),
      "overlap");
  ExpectRefused(Safetensors(kTwoTensors, std::string(16, '\0')), "belong to no tensor");
  ExpectRefused(Safetensors(kTwoTensors, std::string(11, '\0')), "outside the 11 bytes");
  ExpectRefused(
      Safetensors(
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
          std::string(4, '\0')),
      "named twice");
}

// Any prefix and any damaged byte of a good file is refused or read, never followed out of the file
// (run under ASan).
TEST_F(SafetensorsFile, SurvivesDamage) {
  const std::string good = Safetensors(kTwoTensors, std::string(12, '\x3f'));
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_ERROR(Open(good.substr(0, length)), ErrorCode::kBadModel) << length;
  }
  for (size_t at = 0; at < good.size(); ++at) {
    for (const char with : {'\0', '\xff', '9', '"', '['}) {
      std::string bad = good;
      bad[at] = with;
      const Result<SafetensorsModel> opened = Open(bad);
      uint64_t sum = 0;
      for (size_t i = 0; opened && i < 1; ++i) {
        for (const auto& [name, tensor] : opened->tensors()) {
          for (const std::byte byte : tensor.bytes) {
            sum += static_cast<uint64_t>(byte);
          }
        }
      }
      EXPECT_LE(sum, 12U * 255U);
    }
  }
}

class SafetensorsDirectory : public testing::Test {
 protected:
  void ExpectRefused(const std::string& reason) {
    const Result<SafetensorsModel> opened = SafetensorsModel::OpenDirectory(directory_.path());
    ASSERT_ERROR(opened, ErrorCode::kBadModel);
    EXPECT_THAT(opened.error().message, HasSubstr(reason));
  }
  void WriteIndex(const std::string& text) {
    WriteText(directory_.File("model.safetensors.index.json"), text);
  }

  TempDir directory_;
};

TEST_F(SafetensorsDirectory, ReadsShards) {
  const Result<SafetensorsModel> opened = SafetensorsModel::OpenDirectory(GoldenDir("llama3_gqa"));
  ASSERT_OK(opened);
  EXPECT_TRUE(opened->tensors().contains("model.norm.weight"));
  EXPECT_TRUE(opened->tensors().contains("lm_head.weight"));
}

TEST_F(SafetensorsDirectory, RefusesBrokenIndexes) {
  ExpectRefused("neither model.safetensors nor");
  WriteIndex("{");
  ExpectRefused("weight_map");
  WriteIndex(R"({"weight_map":[]})");
  ExpectRefused("weight_map");
  WriteIndex(R"({"weight_map":{"a":3}})");
  ExpectRefused("tensor a");
  WriteIndex(R"({"weight_map":{"a":"../outside.safetensors"}})");
  ExpectRefused("not the name of a shard");
  const std::string shard = Safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                                        std::string(4, '\0'));
  WriteText(directory_.File("1.safetensors"), shard);
  WriteIndex(R"({"weight_map":{"a":"1.safetensors","b":"1.safetensors"}})");
  ExpectRefused("tensor b");
  WriteText(directory_.File("2.safetensors"), shard);
  WriteIndex(R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  ExpectRefused("in another shard");
}

TEST_F(SafetensorsDirectory, NamesAMissingShard) {
  WriteIndex(R"({"weight_map":{"a":"1.safetensors"}})");
  const Result<SafetensorsModel> opened = SafetensorsModel::OpenDirectory(directory_.path());
  ASSERT_FALSE(opened.has_value());
  EXPECT_THAT(opened.error().message, HasSubstr("1.safetensors"));
}

}  // namespace
}  // namespace varve
