"""What looks like a credential does not leave the process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.redaction import MAX_MESSAGE_LENGTH, masked, redact


@pytest.mark.parametrize(
    "text, kept",
    [
        ("Authorization: Bearer abc.def-ghi_jkl", "Authorization: [redacted]"),
        ("bearer   0123456789", "[redacted]"),
        ("Basic dXNlcjpwYXNzd29yZA==", "[redacted]"),
        ("key sk-proj-abcdefghijklmnop is wrong", "key [redacted] is wrong"),
        ("ghp_0123456789abcdefghij", "[redacted]"),
        ("xoxb-0123456789-abcdef", "[redacted]"),
        ("AKIAIOSFODNN7EXAMPLE", "[redacted]"),
        ("redis://user:secret@host:6379/0", "redis://[redacted]@host:6379/0"),
        ("postgresql://:p4ssw0rd@db", "postgresql://[redacted]@db"),
        ("nothing to hide: 3 + 4 = 7, see https://example.org/a:b", "nothing to hide: 3 + 4 = 7, see https://example.org/a:b"),
    ],
)  # fmt: skip
def test_formats_of_credentials(text: str, kept: str) -> None:
    """Each of the usual formats is masked, and the rest of the text is kept."""
    assert redact(text) == kept


def test_values_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of a variable that is named like a secret is masked wherever it appears; short ones are no secrets."""
    for name in ("MY_API_KEY", "DB_PASSWORD", "github_token", "SESSION_SECRET", "GOOGLE_CREDENTIALS"):
        monkeypatch.setenv(name, f"value-of-{name}")
        assert redact(f"<value-of-{name}>") == "<[redacted]>"
    monkeypatch.setenv("TINY_KEY", "abc")
    monkeypatch.setenv("KEYBOARD_LAYOUT", "a-long-layout")
    assert redact("abc a-long-layout") == "abc a-long-layout"


def test_a_secret_that_begins_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of the longer one."""
    monkeypatch.setenv("A_TOKEN", "shared-prefix")
    monkeypatch.setenv("B_TOKEN", "shared-prefix-and-more")
    assert redact("shared-prefix-and-more, shared-prefix") == "[redacted], [redacted]"


@given(st.text(max_size=5000))
def test_any_text(text: str) -> None:
    """No text is too odd; the result is bounded, and masking twice changes nothing more."""
    assert len(redact(text)) <= MAX_MESSAGE_LENGTH
    assert masked(masked(text)) == masked(text)


def test_a_secret_is_not_cut_open() -> None:
    """A secret across the bound is masked before the text is cut: no half of it is left."""
    text = "x" * (MAX_MESSAGE_LENGTH - 10) + " sk-abcdefghijklmnopqrstuvwxyz"
    assert "sk-" not in redact(text)
