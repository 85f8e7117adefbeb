#!/usr/bin/env python3
"""Write a compiled Cairo 0 program without its debug information.

Usage: strip-program.py IN OUT

What the virtual machine needs stays: data, builtins, prime, hints, attributes, the references that hints name, and
the identifiers that are looked up at run time (entry points, labels, constants, structs, aliases). What is dropped is
the source map and the identifiers of single references, which is nearly all of the file. The words of the program do
not change, so neither does its hash. The output is the same for the same input: sorted keys, no white space.
"""
import json
import sys

KEPT_KEYS = ("attributes", "builtins", "compiler_version", "data", "hints", "main_scope", "prime", "reference_manager")
DROPPED_IDENTIFIERS = ("reference", "type_definition", "namespace")


def strip(program):
    """The reduced program; raises KeyError where the input is not a compiled Cairo 0 program."""
    out = {key: program[key] for key in KEPT_KEYS if key in program}
    for key in ("data", "builtins", "prime", "hints", "reference_manager"):
        if key not in out:
            raise KeyError(key)
    out["debug_info"] = None
    out["identifiers"] = {
        name: identifier
        for name, identifier in program["identifiers"].items()
        if identifier["type"] not in DROPPED_IDENTIFIERS
    }
    return out


def main(arguments):
    if len(arguments) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    source, target = arguments
    try:
        with open(source, encoding="utf-8") as file:
            program = strip(json.load(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"strip-program.py: {source}: not a compiled Cairo 0 program: {error!r}", file=sys.stderr)
        return 1
    with open(target, "w", encoding="ascii") as file:
        json.dump(program, file, sort_keys=True, separators=(",", ":"))
        file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
