"""Keep the blocks that a source is stored in, bit by bit, where MatMulNBits can hold them.

Such blocks are symmetric: a value is (code - 2 ** (bits - 1)) * its block's scale. Codes and scales
stay the same, only their order changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from .recipe import Recipe, Rule

AS_STORED = "as_stored"  # the quantisation method that keeps such blocks


@dataclass(frozen=True, slots=True)
class StoredBlocks:
    """Blocks of a source that MatMulNBits can hold as they are."""

    bits: int
    block_size: int


def keeps(rule: Rule | None, stored: StoredBlocks | None) -> bool:
    """Return whether a rule keeps the blocks that a tensor is stored in, if it is in any."""
    return (
        rule is not None
        and stored is not None
        and rule.method == AS_STORED
        and (rule.bits, rule.block_size) == (stored.bits, stored.block_size)
    )


def resolve(recipe: Recipe, stored: Mapping[str, StoredBlocks | None]) -> Recipe:
    """Return the recipe that keeps a source's blocks in their own sizes.

    A rule of the method `as_stored` takes the tensors that are stored in blocks of its bits,
    whatever their size. It leaves others to the rules after it, and quantises those that none of
    them matches.

    Args:
        recipe: the recipe.
        stored: the blocks of each module that can be quantised; None for one that is in none.
    """
    rules: list[Rule] = []
    left = dict(stored)
    for at, rule in enumerate(recipe.rules):
        later = replace(recipe, rules=recipe.rules[at + 1 :])
        matched = [name for name in left if fnmatchcase(name, rule.tensors)]
        # Find the size of each module's blocks, None where a later rule is to quantise it
        sizes: dict[str, int | None] = dict.fromkeys(matched, rule.block_size)
        if rule.method == AS_STORED:
            for name in matched:
                blocks = stored[name]
                if blocks is not None and blocks.bits == rule.bits:
                    sizes[name] = blocks.block_size
                elif later.rule_for(name):
                    sizes[name] = None

        # Keep the rule where it says so already, else write one for each size
        if all(size == rule.block_size for size in sizes.values()):
            rules.append(rule)
        else:
            rules += _rules_of(rule, sizes, left)
        left = {name: blocks for name, blocks in left.items() if sizes.get(name) is None}
    return replace(recipe, rules=tuple(rules))


def _rules_of(
    rule: Rule, sizes: Mapping[str, int | None], names: Mapping[str, object]
) -> list[Rule]:
    """Return rules like `rule` that give modules blocks of these sizes, in patterns where it can.

    A pattern matches no module of `names` that has no size or another one.
    """
    found: dict[Rule, None] = {}
    for name, size in sizes.items():
        if size is None:
            continue
        pattern = next(
            pattern
            for pattern in _patterns(name)
            if all(sizes.get(other) == size for other in names if fnmatchcase(other, pattern))
        )
        found[Rule(pattern, rule.bits, size, rule.method)] = None
    return list(found)


def _patterns(module: str) -> Iterator[str]:
    """Yield patterns that match a module, from the one for all to its own name."""
    parts = re.sub(r"\.\d+\.", ".*.", module).split(".")
    yield "*"
    for cut in range(1, len(parts)):
        yield ".".join((*parts[:cut], "*"))
    yield ".".join(parts)
    yield module
