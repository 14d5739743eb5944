"""Command line for pipelines: ``python -m scgp annotate | index | train | demo``.

Owns arguments, files and exit codes, and nothing else: the verbs do the work. Exit code 0 is
success, 2 an error told in one line, 130 an interrupt. What is written is written under another
name first and renamed once all of it is there, so an error leaves no file.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgp.errors import ArgumentError, ScgpError
from scgp.flags import in_flags

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import anndata as ad

_PICTURES = (".png", ".pdf", ".svg")
_TRAIN_KEYS = ("label_key", "study_key", "donor_key", "tissue_key", "disease_key")
_TRAIN_SETTINGS = ("pool_steps", "steps", "batch_size", "seed")
_TRAIN_PROCESSES = ("devices", "num_nodes", "strategy")
_FEWEST_FOR_UMAP = 10  # neighbours of fewer cells have no shape to draw


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Arguments after the program's name; by default those of the process.

    Returns
    -------
    The exit code: 0, 2 for an error of input or file, 130 for an interrupt.
    """
    args = _parser().parse_args(argv)
    try:
        with _messages_to_stderr():
            args.run(args)
    except (ScgpError, OSError) as error:
        sys.stderr.write(f"scgp: error: {in_flags(' '.join(str(error).split()))}\n")
        return 2
    except KeyboardInterrupt:
        # Training keeps its state beside --out, so that the same command can go on.
        kept = "the answers so far are kept, the same command goes on"
        told = kept if getattr(args, "in_place", False) else "no output was written"
        sys.stderr.write(f"scgp: interrupted; {told}\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scgp", description="Annotate single cells.")
    commands = parser.add_subparsers(required=True, metavar="command")

    annotate = commands.add_parser("annotate", help="label the cells of a file")
    annotate.add_argument("input", type=Path, help="an .h5ad file or .zarr store with counts")
    annotate.add_argument(
        "output", type=Path, nargs="?", help="the same with the labels added: .h5ad, or .zarr"
    )
    annotate.add_argument(
        "--in-place", action="store_true", help="write the labels into the input; can be continued"
    )
    annotate.add_argument(
        "--restart", action="store_true", help="with --in-place: forget an unfinished run"
    )
    source = annotate.add_mutually_exclusive_group()
    source.add_argument("--reference", type=Path, help="an .h5ad file of labelled cells")
    source.add_argument("--index", type=Path, help="an index made by 'index'")
    annotate.add_argument(
        "--memory-map", action="store_true", help="leave the vectors of --index on the disk"
    )
    annotate.add_argument("--label-key", help="column of the reference's obs that has the labels")
    annotate.add_argument("--labels", nargs="+", help="answer with these labels, or 'unknown'")
    annotate.add_argument("--tissue", help="UBERON term that all cells are of: 'lung'")
    annotate.add_argument("--min-confidence", type=float, help="what a label needs, 0 to 1")
    annotate.add_argument(
        "--min-confidence-broader", type=float, help="what a term above the labels needs, 0 to 1"
    )
    annotate.add_argument("--coverage", type=float, help="write label sets that cover this share")
    annotate.add_argument("--use-rep", help="key in obsm of a representation, of both files")
    annotate.add_argument("--smooth", help="column of obs with clusters: also answer for each")
    annotate.add_argument("--key-added", default="scgp", help="prefix of the slots written")
    annotate.add_argument("--plot", type=Path, help="draw a UMAP: .png, .pdf or .svg")
    _add_common(annotate)
    annotate.set_defaults(run=_annotate)

    index = commands.add_parser("index", help="make a reference index of labelled cells")
    index.add_argument("input", type=Path, help="an .h5ad file of labelled cells")
    index.add_argument("output", type=Path, help="directory to make")
    index.add_argument("--label-key", required=True, help="column of obs that has the labels")
    index.add_argument("--study-key", help="column of obs that names each cell's study")
    index.add_argument("--use-rep", help="key in obsm of a representation to index")
    _add_common(index)
    index.set_defaults(run=_index)

    train = commands.add_parser("train", help="train a model, or fine-tune one")
    train.add_argument("input", type=Path, nargs="+", help=".h5ad files of labelled cells")
    train.add_argument("--out", type=Path, required=True, help="directory to make")
    for key in _TRAIN_KEYS:
        name = key.removesuffix("_key")
        train.add_argument(_flag(key), help=f"column of obs that has each cell's {name}")
    train.add_argument("--unlabelled", type=Path, nargs="+", help=".h5ad files of more cells")
    train.add_argument("--profiles", type=Path, help="folder of mean profiles to draw cells from")
    train.add_argument("--base", type=Path, help="model directory to start from")
    for name in _TRAIN_SETTINGS:
        train.add_argument(_flag(name), type=int, help=f"{name} of scgp.train's settings")
    train.add_argument("--overwrite", action="store_true", help="replace the model at --out")
    train.add_argument("--restart", action="store_true", help="leave an unfinished run aside")
    train.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    train.add_argument("--devices", type=int, help="devices of a machine that train together")
    train.add_argument("--num-nodes", type=int, help="machines that train together")
    train.add_argument("--strategy", help="auto, ddp or ddp_spawn: where the processes come from")
    train.set_defaults(run=_train)

    demo = commands.add_parser("demo", help="annotate a real data set that scanpy ships")
    demo.add_argument("--out", type=Path, required=True, help="folder for the file and the picture")
    demo.set_defaults(run=_demo)
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_common(parser: argparse.ArgumentParser) -> None:
    matrix = parser.add_mutually_exclusive_group()
    matrix.add_argument("--layer", help="layer that holds the counts")
    matrix.add_argument("--use-raw", action="store_true", default=None, help="counts are in .raw")
    parser.add_argument("--model", type=Path, help="model directory; by default the shipped one")
    parser.add_argument("--batch-size", type=int, help="cells that go through the model at once")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")


def _annotate(args: argparse.Namespace) -> None:
    import scgp
    from scgp.answer_columns import column_names
    from scgp.scale.copies import annotate_copy, write_copy
    from scgp.scale.stored import check_index, is_store

    if (args.reference is None) != (args.label_key is None):
        message = "--reference and --label-key go together: give both or neither"
        raise ArgumentError(message)
    _check_files(args, store=is_store(args.input))
    if not args.in_place:
        _check_target(args.output, source=args.input)
        _check_suffix(args.output, store=is_store(args.input))
    if args.plot is not None:
        _check_target(args.plot, source=args.input)
        if args.plot.suffix not in _PICTURES:
            message = f"--plot {args.plot}: expected a name ending in one of {', '.join(_PICTURES)}"
            raise ArgumentError(message)
    named = (
        "layer",
        "use_raw",
        "batch_size",
        "device",
        "label_key",
        "labels",
        "tissue",
        "coverage",
        "min_confidence",
        "min_confidence_broader",
    )
    options = _given(args, *named, "use_rep", "smooth") | _model(args)
    if args.reference is not None:
        options["reference"] = _read(args.reference)
    if args.index is not None:
        options["index"] = scgp.ReferenceIndex.load(args.index, memory_map=args.memory_map)
    elif args.memory_map:
        message = "--memory-map is about --index; name one, or leave it out"
        raise ArgumentError(message)
    if args.in_place:
        resume = not args.restart
        n_cells = scgp.annotate_file(args.input, key_added=args.key_added, resume=resume, **options)
        _tell(n_cells, args.input)
        return
    if is_store(args.input):
        options["key_added"] = args.key_added
        _tell(annotate_copy(args.input, args.output, options), args.output)
        return
    adata = _read(args.input)
    check_index(adata.obs.index.name, column_names(args.key_added), args.input)
    if args.plot is not None and "X_umap" not in adata.obsm and adata.n_obs < _FEWEST_FOR_UMAP:
        message = (
            f"--plot needs obsm['X_umap'] or at least {_FEWEST_FOR_UMAP} cells to make one, "
            f"found {adata.n_obs} cells; leave --plot out"
        )
        raise ArgumentError(message)
    scgp.annotate(adata, key_added=args.key_added, **options)
    targets = [args.output] if args.plot is None else [args.output, args.plot]
    with _renamed_at_the_end(targets) as temporary:
        write_copy(
            args.input, temporary[0], adata, key_added=args.key_added, vectors=args.use_rep is None
        )
        if args.plot is not None:
            vectors = args.use_rep or f"X_{args.key_added}"
            _plot(adata, temporary[1], key_added=args.key_added, vectors=vectors)
    _tell(adata.obs[f"{args.key_added}_status"].value_counts().to_dict(), args.output)


def _check_files(args: argparse.Namespace, *, store: bool) -> None:
    """Refuse what does not go together of input, output and the options about them."""
    refused = None
    if args.in_place and args.output is not None:
        refused = f"--in-place writes into {args.input}; leave out {args.output}, or --in-place"
    elif not args.in_place and args.output is None:
        refused = "name the file to write, or pass --in-place to write into the input"
    elif args.restart and not args.in_place:
        refused = "--restart goes with --in-place: nothing else is continued"
    elif args.plot is not None and (args.in_place or store):
        what = "--in-place" if args.in_place else "a zarr store"
        refused = f"--plot does not go with {what}; draw afterwards with scgp.pl.embedding"
    elif args.in_place and _same(args.reference, args.input):
        refused = f"--reference {args.reference} is the input too, which --in-place writes into"
        refused += "; name a file for the output instead, or a copy as the reference"
    if refused is not None:
        raise ArgumentError(refused)


def _same(path: Path | None, other: Path) -> bool:
    return path is not None and path.exists() and other.exists() and path.samefile(other)


def _tell(n_cells: dict[str, int], target: Path) -> None:
    told = ", ".join(f"{n:,} {status}" for status, n in n_cells.items() if n)
    sys.stdout.write(f"{sum(n_cells.values()):,} cells ({told}) -> {target}\n")


def _index(args: argparse.Namespace) -> None:
    import scgp

    if args.output.exists():
        message = f"{args.output} exists; name a directory that does not, or remove it first"
        raise ArgumentError(message)
    _check_target(args.output, source=args.input)
    named = ("layer", "use_raw", "batch_size", "device", "study_key", "use_rep")
    options = _given(args, *named) | _model(args)
    index = scgp.build_index(_read(args.input), label_key=args.label_key, **options)
    index.save(args.output)
    sys.stdout.write(f"index -> {args.output}\n")


def _train(args: argparse.Namespace) -> None:
    import scgp

    for path in [*args.input, *(args.unlabelled or ())]:
        _check_source(path)
    options = _given(args, *_TRAIN_KEYS, "unlabelled", "base", "device", *_TRAIN_PROCESSES)
    settings = _given(args, *_TRAIN_SETTINGS)
    if settings:
        from scgp.model.config import TrainConfig

        options["settings"] = TrainConfig(**settings)
    if args.profiles is not None:
        from scgp.cells.draw import read_drawn

        options["drawn"] = read_drawn(args.profiles, seed=settings.get("seed", 0))
    switches = {"resume": not args.restart, "overwrite": args.overwrite}
    scgp.train(args.input, out=args.out, **switches, **options)
    sys.stdout.write(f"model -> {args.out}\n")


def _demo(args: argparse.Namespace) -> None:
    from scgp.demo import run

    run(args.out)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that were given; the verb's own defaults stand for the others."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _model(args: argparse.Namespace) -> dict[str, Any]:
    import scgp

    return {} if args.model is None else {"model": scgp.Model.load(args.model)}


def _check_source(path: Path) -> None:
    if not path.is_file():
        message = f"{path} is not a file; expected an .h5ad file"
        raise ArgumentError(message)


def _check_target(path: Path, *, source: Path) -> None:
    from scgp.scale.stored import is_store

    if not path.parent.is_dir():
        message = f"{path}: the folder {path.parent} does not exist; make it first"
        raise ArgumentError(message)
    if path.exists() and path.samefile(source):
        message = f"{path} is the input too; name another file, the input is never changed"
        raise ArgumentError(message)
    if is_store(path) or (path.suffix == ".zarr" and path.exists()):
        message = f"{path} exists, and no store is replaced; name another, or remove it first"
        raise ArgumentError(message)
    if path.is_dir():
        message = f"{path} is a folder; name a file in it"
        raise ArgumentError(message)


def _check_suffix(path: Path, *, store: bool) -> None:
    """Refuse a name that promises another format than the one written: that of the input."""
    suffix, kind = (".zarr", "a zarr store") if store else (".h5ad", "an .h5ad file")
    if path.suffix.lower() != suffix:
        message = f"{path}: a copy of {kind} is written; expected a name ending in {suffix}"
        raise ArgumentError(message)


def _read(path: Path) -> ad.AnnData:
    from scgp.cells.h5ad_file import open_backed

    _check_source(path)
    return open_backed(path)


def _plot(adata: ad.AnnData, target: Path, *, key_added: str, vectors: str) -> None:
    """Draw the cells; coordinates the file lacks are made from the embedding and not kept."""
    import anndata

    from scgp import pl

    drawn = anndata.AnnData(obs=adata.obs, obsm=dict(adata.obsm))
    if "X_umap" not in drawn.obsm:
        import scanpy

        neighbours = min(15, drawn.n_obs - 1)
        scanpy.pp.neighbors(drawn, use_rep=vectors, n_neighbors=neighbours)
        scanpy.tl.umap(drawn)
    pl.write_picture(pl.embedding(drawn, key_added=key_added), target)


@contextmanager
def _renamed_at_the_end(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Give names beside the targets to write to; rename all of them, or remove all of them."""
    temporary = [path.with_name(f".{os.getpid()}-{path.name}") for path in targets]
    try:
        yield temporary
        for path, target in zip(temporary, targets, strict=True):
            path.replace(target)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


@contextmanager
def _messages_to_stderr() -> Iterator[None]:
    """Show warnings and what the package logs as plain lines, for as long as a command runs."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        sys.stderr.write(f"scgp: {category.__name__}: {' '.join(str(message).split())}\n")

    logger, handler = logging.getLogger("scgp"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("scgp: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
