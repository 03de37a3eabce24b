"""What the drivers of TRL share. They run in TRL's own Python: `<python> trl_<trainer>.py <spec.json>`.

The spec names files and hyperparameters (`workloads.Recipe`); the driver writes `result.json` into the spec's `out`.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback


def read_spec() -> dict[str, Any]:
    """The spec named on the command line."""
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    Path(spec["out"]).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(spec["seed"])
    return spec


def rows(spec: dict[str, Any], name: str) -> Dataset:
    """One exported table."""
    lines = (Path(spec["data"]) / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return Dataset.from_list([json.loads(line) for line in lines])


def common(spec: dict[str, Any], steps: int) -> dict[str, Any]:
    """Arguments of every trainer: float32, no gradient checkpointing, nothing reported, nothing saved on the way."""
    return {
        "output_dir": str(Path(spec["out"]) / "trainer"),
        "max_steps": steps,
        "seed": spec["seed"],
        "bf16": False,
        "gradient_checkpointing": False,
        "weight_decay": 0.0,
        "max_grad_norm": spec["max_grad_norm"],
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 10,
        "disable_tqdm": True,
    }


def tokenizer_of(spec: dict[str, Any], side: str) -> Any:
    """The tokenizer, padding on `side`."""
    return AutoTokenizer.from_pretrained(spec["model"], padding_side=side)


def causal(folder: str) -> Any:
    """A causal language model in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def classifier(folder: str) -> Any:
    """A classifier with one output in float32; its head is drawn as alignpipe's where the checkpoint has none."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    if "ForSequenceClassification" not in json.loads((Path(folder) / "config.json").read_text())["architectures"][0]:
        torch.nn.init.normal_(model.score.weight, std=(model.config.hidden_size + 1) ** -0.5)
    return model


class Stopwatch(TrainerCallback):
    """Seconds of every step and, apart from them, of every checkpoint that is saved on the way."""

    def __init__(self) -> None:
        self.begun = self.last = time.perf_counter()
        self.steps: list[float] = []
        self.saving = 0.0

    def start(self) -> None:
        """Called right before `trainer.train()`: models and data are loaded."""
        self.begun = self.last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Book a step."""
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.last = now

    def on_save(self, *_: Any, **__: Any) -> None:
        """Book a checkpoint."""
        now = time.perf_counter()
        self.saving += now - self.last
        self.last = now

    def figures(self) -> dict[str, Any]:
        """Called right after `trainer.train()`; what remains is booked on the last step."""
        self.steps[-1] += time.perf_counter() - self.last
        return {"steps": self.steps, "apart": self.saving}


def train_supervised(
    task: str,
    load: Callable[[str], Any],
    trainer_type: Any,
    config_type: Any,
    table: str,
    judge: Callable[[Any, Dataset], dict[str, float]],
    **options: Any,
) -> None:
    """The drivers of sft and the reward: train on `<table>-train`, save, judge the model on `<table>-heldout`."""
    spec = read_spec()
    model, watch = load(spec["model"]), Stopwatch()
    args = config_type(
        **common(spec, spec[f"{task}_steps"]),
        per_device_train_batch_size=spec[f"{task}_batch"],
        learning_rate=spec[f"{task}_lr"],
        lr_scheduler_type="cosine",
        warmup_steps=spec[f"{task}_warmup"],
        adam_epsilon=spec[f"{task}_adam_eps"],
        **options,
    )
    trainer = trainer_type(
        model=model,
        args=args,
        train_dataset=rows(spec, f"{table}-train"),
        processing_class=tokenizer_of(spec, "right"),
        callbacks=[watch],
    )
    watch.start()
    trainer.train()
    result = watch.figures()
    trainer.save_model(str(Path(spec["out"]) / "model"))
    if spec["judge"]:
        result |= judge(model, rows(spec, f"{table}-heldout"))
    write_result(spec, result)


def write_result(spec: dict[str, Any], result: dict[str, Any]) -> None:
    """`result.json`, with the versions that made it."""
    names = ("trl", "transformers", "torch")
    found = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])
    (Path(spec["out"]) / "result.json").write_text(json.dumps({**result, "versions": found}) + "\n")
