#!/usr/bin/env python3
"""Shows that the house-rule check (ops/tidy/tidy.py) notices each kind of breach: each rule once broken, once kept."""
import importlib.util
import pathlib
import unittest

PATH = pathlib.Path(__file__).resolve().parents[2] / "ops/tidy/tidy.py"
spec = importlib.util.spec_from_file_location("tidy", PATH)
tidy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tidy)


class TidyTest(unittest.TestCase):
    def test_includes_point_down(self):
        self.assertEqual(list(tidy.check_includes("worker/a.cc", ['#include "kvstore/b.h"'])), [])
        self.assertTrue(list(tidy.check_includes("kvstore/a.cc", ['#include "worker/b.h"'])))
        self.assertTrue(list(tidy.check_includes("coordinator/a.cc", ['#include "worker/b.h"'])))
        self.assertTrue(list(tidy.check_includes("worker/a.cc", ['#include "b.h"'])))

    def test_long_functions_and_files_are_named(self):
        body = ["void Long(int a) {"] + ["  a += 1;"] * 70 + ["}"]
        self.assertIn("Long", list(tidy.check_lengths("worker/a.cc", body))[0])
        self.assertEqual(list(tidy.check_lengths("worker/a.cc", body[:50] + ["}"])), [])
        self.assertTrue(list(tidy.check_lengths("worker/a.cc", ["int a;"] * 401)))

    def test_banned_calls_unfinished_work_and_machine_paths(self):
        for line in ("auto t = std::chrono::steady_clock::now();", "// TO" + "DO later", 'f("/ro' + 'ot/x");'):
            self.assertTrue(list(tidy.check_text("worker/a.cc", [line])), line)
        self.assertEqual(list(tidy.check_text("worker/a.cc", ["clock.NowUs();  // steady"])), [])

    def test_headers_start_with_their_purpose(self):
        self.assertEqual(list(tidy.check_header("a.h", ["// What it is.", "#pragma once"])), [])
        self.assertEqual(len(list(tidy.check_header("a.h", ["#ifndef A_H"]))), 2)

    def test_a_test_mirrors_a_source(self):
        self.assertEqual(list(tidy.check_mirror(["tests/worker/a_test.cc", "worker/a.cc"])), [])
        self.assertTrue(list(tidy.check_mirror(["tests/worker/a_test.cc", "worker/b.cc"])))


if __name__ == "__main__":
    unittest.main()
