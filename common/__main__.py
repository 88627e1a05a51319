"""The door: `python -m common <verb>` runs a stage, `python -m common` lists them."""

from __future__ import annotations

import importlib
import sys

from common.installation import MODULE

VERBS = {
    "prepare": "Looks at a dataset once, says what is wrong with it, and writes its manifest",
    "train": "Trains one model; goes on from its last checkpoint",
    "evaluate": "Scores one run",
    "measure": "Measures what one run costs",
    "controls": "Scores the labellings that bracket a dataset and model",
    "run": "Runs the benchmark, or what else is asked of Snakemake",
    "init": "Writes a configuration for your own images, from a look at their folder",
    "list": "Lists methods, datasets, models, presets, or the options of one",
    "tune": "Tries settings of a method on images that are not scored",
    "tabulate": "Writes the tables of whatever results there are",
    "report": "Writes tables, charts and the report of whatever results there are",
    "status": "Says what is done, running, waiting and failed",
    "estimate": "Says what the benchmark will take, before it starts",
    "compare": "Says which rows changed by more than chance between two result folders",
    "merge": "Copies the results of another machine into a folder of results",
    "predict": "Predicts the labels of any pictures with a finished run",
    "export": "Writes a finished run as one file for use elsewhere",
    "download": "Gets a dataset, or says how to",
    "check": "Checks a configuration, or that a method's file keeps what every method keeps",
    "kernels": "Times the kernels side by side with what they replace",
}


def main() -> None:
    """Runs the stage that the first argument names."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        print("usage: structseg VERB …        (structseg VERB --help says more)\n")
        print("\n".join(f"  {name:10}{about}" for name, about in VERBS.items()))
    elif verb not in VERBS:
        print(f"structseg: there is no verb {verb!r}; choose from {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    else:
        from common import compiler

        with compiler.put_off():
            entry = importlib.import_module(f"{MODULE}.stages.entry")
            stage = importlib.import_module(f"{MODULE}.stages.{verb}")
        entry.enter(stage, verb, VERBS[verb], arguments)


if __name__ == "__main__":
    main()
