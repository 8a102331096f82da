"""Builds the checkpoints of expected.yaml: build.py OUT. Each lies at OUT/GROUP/CASE."""

import importlib
import pathlib
import sys

here = pathlib.Path(__file__).parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(here), str(here / "cases")]
for source in sorted((here / "cases").glob("*.py")):
    group = pathlib.Path(sys.argv[1]) / source.stem
    group.mkdir(parents=True)
    importlib.import_module(source.stem).build(group)
