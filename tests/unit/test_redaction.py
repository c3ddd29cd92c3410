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
        ("token rw_0123456789ab_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789_-AbCdE.", "token [redacted]."),
        ("GET /v1/runs/x?access_token=rwr_eyJ0IjoiYSJ9.c2lnbmF0dXJl&x=1", "GET /v1/runs/x?access_token=[redacted]&x=1"),
        ("rwr_eyJ0IjoiYSJ9.c2lnbmF0dXJl is over", "[redacted] is over"),
        ("{'access_token': 'abcdef'}", "{'access_token': '[redacted]'}"),
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


@pytest.mark.parametrize(
    "text, secret",
    [
        ('{"password": "hunter2 and more"}', "hunter2"),
        (r"{\"password\": \"hunter2\"}", "hunter2"),
        ("password='it''s'; x-api-key: 0123abcd", "0123abcd"),
        ("X-API-Key: abc-def-ghi", "abc-def"),
        ("api_key=abcdef&next=1", "abcdef"),
        ("AIzaSyA1234567890abcdefghijklmnopqrstuv", "AIza"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJ"),
        ("ASIAIOSFODNN7EXAMPLE", "ASIA"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalr"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----", "MIIE"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEow", "MIIE"),
        ("redis://user:pa@ss/word@host:6379/0", "ss/word"),
        ("redis://host:s3cretpassword/0", "s3cret"),
        ("github_pat_11ABCDEFG0123456789", "11ABC"),
        ("client_secret: 'abc def'", "abc def"),
    ],
)
def test_more_formats_of_credentials(text: str, secret: str) -> None:
    """What is named a secret, keys of more providers, tokens, private keys and misplaced passwords are masked too."""
    assert secret in text
    assert secret not in redact(text)
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "input_tokens: 500, output_tokens: 20",
        "page_token: not a token of this service",
        "redis://localhost:6379/0 and https://example.org:8080/a:b",
        "secretary of state; passwords are hard",
        "TokenLimitError: 5 tokens",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Masking leaves words that only sound like it."""
    assert redact(text) == text


@pytest.mark.parametrize("word", ["x", "password", "://", "eyJ", '"', "-----BEGIN PRIVATE KEY-----", "sk-", "a:"])
def test_masking_is_bounded(word: str) -> None:
    """Of a text of megabytes, also of one made to be slow, the beginning and the end are looked at and left."""
    assert len(masked(word * 1_000_000)) < 100_000
