"""What the compiled kernels save: attention by itself, and passes of a whole model, in turns with torch's operations.

    python tests/benchmarks/compiled_kernels.py [--rounds 30]

Milliseconds, medians of all rounds; forward and backward pass. SDPA is what the packed forward does without a kernel of
its own for attention: tokens are put into a padded grid and taken from there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from figures import machine, ratio, table, versions
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from alignpipe.training.batches import pad_rows, response_logprobs
from alignpipe.training.packed.compiled import want_kernels
from alignpipe.training.packed.compiled_functions import Where, attention, compiled_attention
from alignpipe.training.packed.functions import from_grid, to_grid
from alignpipe.training.packed.layout import Layout

ROWS, HEADS = 8, 4


def main(words: list[str] | None = None) -> None:
    """Run and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="rounds in turns (30)")
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 128, 256, 512], help="longest rows, in tokens")
    options = parser.parse_args(words)
    print(f"{machine()}\n{versions()}\n")
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for width in options.widths:
            for d in (32, 64, 128):
                found = in_turns(attentions(width, d), options.rounds)
                taken = compiled_attention(torch.empty(sum(lengths(width)), HEADS, d), width)
                judged = [ratio(found["SDPA"], found["kernel"]), "kernel" if taken else "SDPA"]
                rows.append([threads, width, d, *found.values(), *judged])
    print(f"Attention of {ROWS} rows, {HEADS} heads:\n")
    print(table(["threads", "longest row", "head size", "SDPA", "kernel", "SDPA / kernel", "runs take"], rows))
    torch.set_num_threads(1)
    rows = []
    for hidden in (128, 384):
        for width in options.widths:
            found = in_turns(passes(hidden, width), options.rounds)
            rows.append([hidden, width, *found.values(), ratio(found["torch"], found["kernels"])])
    print(f"\nA model of four layers, {ROWS} rows, one thread:\n")
    print(table(["hidden size", "longest row", "torch", "kernels", "torch / kernels"], rows))


def in_turns(ways: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each way; the first two rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 2):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(found[2:]) for name, found in seconds.items()}


def lengths(width: int) -> list[int]:
    """Rows of half the width and more; one is as long as that."""
    return [width - row * width // (2 * ROWS) for row in range(ROWS)]


def attentions(width: int, d: int) -> dict[str, Callable[[], None]]:
    """Attention of every token of rows to those before it, both ways, on the same numbers."""
    random = torch.Generator().manual_seed(0)
    layout = Layout.of(torch.tensor(lengths(width)), torch.zeros(ROWS, dtype=torch.long), lambda _: 0)
    n, index = len(layout.grid.cells), layout.grid
    q, k, v, grad = (torch.randn(n, HEADS, d, generator=random).requires_grad_() for _ in range(4))
    angles = torch.randn(2, n, 1, d, generator=random)
    where = Where(index.cells, index.tokens, width)

    def padded(x: Tensor, turned: bool) -> Tensor:
        cells = to_grid(x, index, angles if turned else None, torch.float32)
        return cells.view(ROWS, width, HEADS, d).transpose(1, 2)

    def sdpa() -> Tensor:
        grid = (padded(q, True), padded(k, True), padded(v, False))
        made = functional.scaled_dot_product_attention(*grid, is_causal=True)
        return from_grid(made.transpose(1, 2).flatten(0, 1), index.cells, torch.float32)

    def backward(made: Tensor) -> None:
        torch.autograd.grad(made, (q, k, v), grad.detach().flatten(1))

    return {
        "SDPA": lambda: backward(sdpa()),
        "kernel": lambda: backward(attention(q, k, v, where, (angles, angles), d**-0.5)),
    }


def passes(hidden: int, width: int) -> dict[str, Callable[[], None]]:
    """A model's passes over rows of which half is prompt, with all kernels and with none."""
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=width,
    )
    model = LlamaForCausalLM(config)
    prompts = [[1 + (row + token) % 500 for token in range(width // 2)] for row in range(ROWS)]
    responses = [[1 + token % 400 for token in range(length - width // 2)] for length in lengths(width)]
    batch = pad_rows(prompts, [response or [1] for response in responses], 0, "cpu")

    def run(wanted: bool) -> None:
        want_kernels(wanted)
        made, _ = response_logprobs(model, batch)
        made.sum().backward()
        model.zero_grad()
        want_kernels(True)

    return {"torch": lambda: run(False), "kernels": lambda: run(True)}


if __name__ == "__main__":
    main()
