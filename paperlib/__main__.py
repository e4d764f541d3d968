"""Inputs of a configuration, from the command line; ``./run_all.sh`` calls this.

python -m paperlib check --config paper
python -m paperlib fetch --config paper --dataset things-eeg2 --subjects 1,3
"""

import argparse
import sys

from paperlib.config import load_config
from paperlib.paths import ROOT

_SHOWN = 3  # faults of an input that are listed


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the result is its exit status.

    Parameters
    ----------
    arguments
        Words of the command line; None for those of this process.
    """
    options = _parse(arguments)
    try:
        settings = load_config(options.config)
        if settings["simulated"]:
            print(
                f"{options.config} makes its own data (notebook 00); nothing to fetch."
            )
            return 0
        return {"check": _check, "fetch": _fetch}[options.command](options, settings)
    except (OSError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
    return 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run_all.sh", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is there and what is missing")
    fetch = commands.add_parser("fetch", help="bring what is missing")
    for command in (check, fetch):
        command.add_argument("--config", required=True)
    chosen = fetch.add_mutually_exclusive_group()
    chosen.add_argument("--dataset", help="only this data set")
    chosen.add_argument("--weights", action="store_true", help="only models' weights")
    fetch.add_argument(
        "--subjects", type=_numbers, help="only these participants, such as 1,3"
    )
    options = parser.parse_args(arguments)
    if options.command == "fetch" and options.subjects and not options.dataset:
        parser.error("--subjects needs --dataset: every data set counts its own")
    return options


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _check(options: argparse.Namespace, settings: dict) -> int:
    """Print the state of every input; 1 if something is missing or wrong."""
    from paperlib.inputs import list_inputs  # seconds, of which mini needs none

    faulty = []
    group = None
    for item in list_inputs(options.config):
        if item.group != group:
            group = item.group
            print(f"\n{group}")
        faults = item.faults()
        print(f"  {_state(faults)}  {item.name}", flush=True)
        _list_faults(faults)
        faulty += [item] if faults else []
    if faulty:
        _print_remedies(faulty, options.config, settings)
    else:
        print(f"\nAll inputs of {options.config} are there.")
    return int(bool(faulty))


def _fetch(options: argparse.Namespace, settings: dict) -> int:
    """Bring what is missing; 1 if something is left for the reader to bring."""
    from paperlib.inputs import WEIGHTS, fetch_inputs, list_inputs, select_inputs
    from paperlib.validation import check_option

    if options.dataset:
        check_option("--dataset", options.dataset, tuple(settings["datasets"]))
    group = WEIGHTS if options.weights else options.dataset
    chosen = select_inputs(
        list_inputs(options.config), group=group, subjects=options.subjects
    )
    left = fetch_inputs(chosen, ROOT / settings["data_root"])
    _print_by_hand(left)
    if not left:
        print("Everything asked for is there.")
    return int(bool(left))


def _state(faults: list[str]) -> str:
    """Return ok, missing or wrong, equally wide."""
    if not faults:
        return "ok     "
    return "missing" if all(map(_is_missing, faults)) else "wrong  "


def _list_faults(faults: list[str]) -> None:
    """Print the first faults, one if files are only missing, others before those."""
    ordered = sorted(faults, key=_is_missing)
    n_shown = 1 if all(map(_is_missing, faults)) else _SHOWN
    for fault in ordered[:n_shown]:
        print(f"             {fault.replace(f'{ROOT}/', '')}")
    if len(faults) > n_shown:
        print(f"             ... and {len(faults) - n_shown} more")


def _is_missing(fault: str) -> bool:
    return fault.startswith("missing")


def _print_remedies(faulty: list, config: str, settings: dict) -> None:
    """Print the commands that bring what is missing."""
    print("\nTo get what is missing:")
    brought = [item for item in faulty if item.fetch]
    for group in dict.fromkeys(item.group for item in brought):
        command = f"./run_all.sh fetch --config {config} "
        if group not in settings["datasets"]:
            print(f"  {command}--weights")
            continue
        subjects = [i.subject for i in brought if i.group == group and i.subject]
        some = 0 < len(subjects) < len(settings["datasets"][group]["subjects"])
        named = f" --subjects {','.join(map(str, subjects))}" if some else ""
        print(f"  {command}--dataset {group}{named}")
    _print_by_hand([item for item in faulty if not item.fetch])
    print("Or leave participants out: `subjects` of a data set in the configuration.")


def _print_by_hand(items: list) -> None:
    if items:
        print("By hand:")
    for item in items:
        print(
            f"  {item.group}, {item.name}:\n    {item.by_hand.replace(f'{ROOT}/', '')}"
        )


if __name__ == "__main__":
    sys.exit(main())
