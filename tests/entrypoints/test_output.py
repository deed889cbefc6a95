import pytest

from entrypoints import cli
from entrypoints.output import Output
from schemas.errors import RetryableError


def test_brackets_in_data_are_printed_and_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False).rows("audit", [{"reason": "see [/runbook] and [red]"}])

    assert "see [/runbook] and [red]" in capsys.readouterr().out


def test_what_was_unavailable_is_told_as_it_came(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_reach() -> None:
        raise RetryableError("[thrd:main] no answer; log: [/var/log]")

    monkeypatch.setattr(cli, "app", out_of_reach)
    with pytest.raises(SystemExit) as left:
        cli.main()

    assert left.value.code == 3
    assert "unavailable [thrd:main] no answer; log: [/var/log]" in capsys.readouterr().err
