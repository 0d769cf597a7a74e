"""The support table says what the tests have seen."""

from tests.capturing.support import PAGE, page


def test_the_support_table_is_up_to_date():
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "run: python -m tests.capturing.support"
