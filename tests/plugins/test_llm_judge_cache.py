"""The judge's cache: keys, whole files, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from alignpipe_plugins.llm_judge.cache import Cache, Reply, request_key


def test_keys_depend_on_all_that_was_asked() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}], "temperature": 0.0}
    keys = {
        request_key("http://a", body),
        request_key("http://b", body),
        request_key("http://a", {**body, "model": "n"}),
        request_key("http://a", {**body, "temperature": 1.0}),
        request_key("http://a", {**body, "messages": [{"role": "user", "content": "r"}]}),
    }
    assert len(keys) == 5
    assert request_key("http://a", dict(reversed(body.items()))) in keys


def test_several_processes_share_a_cache(tmp_path) -> None:
    """Readers never see half a file while writers replace it, and no line of the usage is torn."""
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from alignpipe_plugins.llm_judge.cache import Cache, Reply
cache = Cache(Path({str(tmp_path)!r}))
for number in range(200):
    cache.put("ab" * 32, Reply("x" * 20000, int(sys.argv[1]), number))
    cache.note({{"process": sys.argv[1], "number": number}})
"""
    Cache(tmp_path).put("ab" * 32, Reply("x" * 20000))
    writers = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(3)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        reply = Cache(tmp_path).get("ab" * 32)
        assert reply is not None
        assert len(reply.answer) == 20000
        seen.add(reply.prompt_tokens)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen
    assert Cache(tmp_path).get("ab" * 32) is not None
    assert [path.name for path in (tmp_path / "ab").iterdir()] == [f"{'ab' * 32}.json"]
    lines = [json.loads(line) for line in (tmp_path / "usage.jsonl").read_text().splitlines()]
    assert sorted((line["process"], line["number"]) for line in lines) == [
        (str(process), number) for process in range(3) for number in range(200)
    ]


def test_a_file_in_the_cache_is_readable_by_those_who_may_read_the_folder(tmp_path) -> None:
    Cache(tmp_path).put("cd" * 32, Reply("x"))
    (file,) = tmp_path.glob("*/*.json")
    mask = os.umask(0)
    os.umask(mask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~mask
