"""Makes the model that ships with Varve: reads text, trains, exports, verifies, measures. Run by `ops/train`."""
import argparse
import os
from pathlib import Path

import torch

import export
import measure
import text
from model import Model
from train import train


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ops/train", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder of plain .txt files to train on")
    parser.add_argument("--work", type=Path, required=True, help="folder for the encoded text and the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and sequences (default 1)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes to train with (default: one per CPU)")
    parser.add_argument("--export-only", action="store_true", help="export the checkpoint as it is, without training on")
    parser.add_argument("--checkpoint", help="which checkpoint to export, such as stage4.pt (default: the last)")
    parser.add_argument("--measure-only", action="store_true", help="measure the model in --out, without training")
    parser.add_argument("--no-measure", action="store_true", help="leave the measurement out")
    parser.add_argument("--measure-text", type=Path, help="measure on this text file too, such as a manual")
    parser.add_argument("--max-tokens", type=int, default=131_072, help="longest document to measure (default 131072)")
    parser.add_argument("--min-tokens", type=int, default=0, help="shortest document to measure (default 0)")
    parser.add_argument("--show-misses", action="store_true", help="print each wrongly answered question")
    return parser.parse_args()


def load_checkpoint(path: Path) -> Model:
    if not path.exists():
        raise SystemExit(f"train: no checkpoint {path} to export")
    model = Model()
    model.load_state_dict(torch.load(path)["model"])
    return model


def measure_model(args: argparse.Namespace) -> None:
    tokenizer, _, held_out = text.prepare(args.text, args.work)
    sources = {"books": tokenizer.decode(held_out.tolist())}
    if args.measure_text:
        sources[args.measure_text.stem] = args.measure_text.read_text(encoding="utf-8", errors="replace")
    rows = tuple(row for row in measure.ROWS + measure.LONG_ROWS if args.min_tokens <= row.tokens <= args.max_tokens)
    measure.measure(args.out, sources, rows, show_misses=args.show_misses)


def main() -> None:
    args = parse_arguments()
    if not args.text.is_dir():
        raise SystemExit(f"train: the text folder {args.text} does not exist")
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.work / "checkpoint.pt"
    if not args.measure_only:
        tokenizer, train_ids, _ = text.prepare(args.text, args.work)
        if not args.export_only:
            train(args.work / "tokenizer.json", train_ids, checkpoint, args.seed, args.processes)
        export.export(load_checkpoint(args.work / (args.checkpoint or checkpoint.name)), tokenizer, args.out)
        export.verify(measure.load(args.out)[0], tokenizer, args.out)
    if not args.no_measure:
        measure_model(args)


if __name__ == "__main__":
    main()
