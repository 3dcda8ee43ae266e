#!/usr/bin/env python3
"""Tests of facts.py: python3 -m unittest discover -s ops/training -p '*_test.py'."""
import json
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import facts

TEXT = "One sentence. Another one!\nA line without an end\n    code(line);\n" * 400
SCRIPT = Path(facts.__file__)


class FactsTest(unittest.TestCase):
    def test_keys_of_the_two_halves_never_meet(self):
        trained = {fact.key for fact in facts.make_facts(random.Random(1), 2000, held_out=False)}
        held_out = {fact.key for fact in facts.make_facts(random.Random(1), 2000, held_out=True)}
        self.assertFalse(trained & held_out)

    def test_neighbour_differs_in_one_word(self):
        rng = random.Random(2)
        for _ in range(500):
            key = facts.make_key(rng, held_out=True)
            near = facts.make_key(rng, held_out=True, near=key)
            if near is not None:
                self.assertEqual(1, sum(a != b for a, b in zip(key.split(), near.split(), strict=True)), (key, near))

    def test_each_answer_stands_in_the_document_once(self):
        document, asked = facts.plant_document(TEXT, num_facts=150, num_questions=40, seed=3)
        self.assertEqual(40, len({fact.key for fact in asked}))
        for fact in asked:
            self.assertEqual(1, document.count(f"{fact.key} is "), fact.key)
            self.assertIn(fact.answer, document)
            self.assertIn(fact.key, fact.question)

    def test_same_seed_gives_the_same_document(self):
        self.assertEqual(facts.plant_document(TEXT, 50, 10, seed=4), facts.plant_document(TEXT, 50, 10, seed=4))
        self.assertNotEqual(facts.plant_document(TEXT, 50, 10, seed=4), facts.plant_document(TEXT, 50, 10, seed=5))

    def test_document_keeps_to_its_size(self):
        document, _ = facts.plant_document(TEXT, 20, 5, seed=6, min_bytes=100_000, max_bytes=110_000)
        self.assertTrue(100_000 <= len(document.encode()) <= 110_000, len(document.encode()))


class PlantCommandTest(unittest.TestCase):
    def run_plant(self, *extra: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, SCRIPT, "plant", "--text", self.folder / "text", "--out", self.folder / "out",
             "--questions", self.folder / "questions", *extra], capture_output=True, text=True)

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        (self.folder / "text").write_text(TEXT)

    def test_writes_document_and_questions(self):
        self.assertEqual(0, self.run_plant("--facts", "60").returncode)
        document = (self.folder / "out").read_text()
        for row in json.loads((self.folder / "questions").read_text()):
            self.assertEqual(f"{row['key']} is {row['answer']}.", row["expected"])
            self.assertIn(row["expected"], document)

    def test_says_what_is_wrong(self):
        for extra, message in ((("--text", "no-such-file"), "cannot read the text"),
                               (("--facts", "5"), "--num-questions must be between"),
                               (("--max-bytes", "100"), "--max-bytes must be at least")):
            result = self.run_plant(*extra)
            self.assertNotEqual(0, result.returncode)
            self.assertIn(message, result.stderr)


if __name__ == "__main__":
    unittest.main()
