"""A sample of the mutation test, and its bookkeeping."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.__main__ import main, stale_entries
from tests.mutation.programs import PROGRAMS, PROGRAMS_OF_FILE
from tests.mutation.redundant import REDUNDANT
from tests.mutation.statements import ROOT, all_mutants, mutants_of

MUTANTS = all_mutants()


def test_every_file_that_synchronises_has_programs() -> None:
    files = {mutant.file for mutant in MUTANTS}
    assert files == set(PROGRAMS_OF_FILE)
    assert {name for names in PROGRAMS_OF_FILE.values() for name in names} == set(PROGRAMS)
    assert all((ROOT / program.source).exists() for program in PROGRAMS.values())


def test_redundant_statements_exist_and_say_why() -> None:
    assert not stale_entries(MUTANTS)
    assert all(len(entry.reason.split()) > 5 for entry in REDUNDANT)


def test_statements_are_found_where_they_stand(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tests.mutation.statements.ROOT", tmp_path)
    file = tmp_path / "kernel.cuh"
    file.write_text(
        "// __syncthreads();\n"
        "void f() {\n"
        "  ptx::cp_async_wait<kStages - 2>();\n"
        "  if (first) shared.ring.initialise(4);\n"
        "  ptx::mbarrier_init(full[stage],\n"
        "                     1);\n"
        "  __syncthreads();  // twice\n"
        "  __syncthreads();\n"
        "  subscribe(1); ptx::load_global(p); __shfl_xor_sync(mask, v, 1);\n"
        "}\n"
    )
    mutants = mutants_of(file)
    assert [(m.line, m.statement, m.occurrence) for m in mutants] == [
        (3, "ptx::cp_async_wait<kStages - 2>();", 1),
        (4, "shared.ring.initialise(4);", 1),
        (5, "ptx::mbarrier_init(full[stage], 1);", 1),
        (7, "__syncthreads();", 1),
        (8, "__syncthreads();", 2),
    ]
    assert mutants[1].source() == file.read_text().replace("shared.ring.initialise(4);", ";")


def test_checked_mode_notices_a_sample(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--sample", "16", "--seed", "1", "--no-plain"])
    assert status == 0, capsys.readouterr().out
