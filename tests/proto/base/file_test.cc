#include "proto/base/file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

namespace varve {
namespace {

TEST(File, WhatIsWrittenIsReadAndMapped) {
  const TempDir dir;
  const std::string path = dir.File("a");
  ASSERT_OK(WriteFileAtomically(path, "one"));
  ASSERT_OK(WriteFileAtomically(path, "two, longer"));
  EXPECT_EQ(ReadFile(path).value(), "two, longer");
  const auto mapped = MappedFile::Open(path);
  ASSERT_OK(mapped);
  EXPECT_EQ((*mapped)->bytes().size(), 11U);
  EXPECT_EQ(static_cast<char>((*mapped)->bytes()[4]), ' ');
}

TEST(File, AnEmptyFileMapsToNoBytes) {
  const TempDir dir;
  ASSERT_OK(WriteFileAtomically(dir.File("empty"), ""));
  EXPECT_TRUE(MappedFile::Open(dir.File("empty")).value()->bytes().empty());
}

TEST(File, ErrorsNameThePath) {
  const TempDir dir;
  EXPECT_ERROR(ReadFile(dir.File("none")), ErrorCode::kNotFound);
  EXPECT_ERROR(MappedFile::Open(dir.File("none")), ErrorCode::kNotFound);
  EXPECT_ERROR(WriteFileAtomically(dir.File("no/such/dir"), "x"), ErrorCode::kNotFound);
  EXPECT_NE(ReadFile(dir.File("none")).error().message.find(dir.File("none")), std::string::npos);
}

TEST(File, AFileOverTheLimitIsRefused) {
  const TempDir dir;
  ASSERT_OK(WriteFileAtomically(dir.File("big"), std::string(100, 'x')));
  EXPECT_ERROR(ReadFile(dir.File("big"), 99), ErrorCode::kInvalidArgument);
  EXPECT_OK(ReadFile(dir.File("big"), 100));
}

TEST(File, DirectoriesAreMadeOrTheReasonIsGiven) {
  const TempDir dir;
  ASSERT_OK(MakeDirectories(dir.File("a/b/c")));
  EXPECT_TRUE(FileExists(dir.File("a/b/c")));
  ASSERT_OK(WriteFileAtomically(dir.File("file"), ""));
  EXPECT_ERROR(MakeDirectories(dir.File("file/under")), ErrorCode::kIoError);
}

TEST(FileLock, ASecondHolderIsToldWhoHasIt) {
  const TempDir dir;
  const std::string path = dir.File("LOCK");
  auto held = FileLock::Acquire(path);
  ASSERT_OK(held);
  const auto second = FileLock::Acquire(path);
  ASSERT_ERROR(second, ErrorCode::kDataDirLocked);
  EXPECT_NE(second.error().message.find(std::to_string(::getpid())), std::string::npos);
  held.value().reset();
  EXPECT_OK(FileLock::Acquire(path));
}

}  // namespace
}  // namespace varve
