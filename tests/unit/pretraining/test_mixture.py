from pretraining.corpus import Text, level, mixed


def test_the_largest_sources_are_cut_to_one_size():
    assert level([10, 40, 90], 200) == float("inf")
    assert level([10, 40, 90], 140) == float("inf")
    assert level([10, 40, 90], 100) == 50  # 10 + 40 + 50
    assert level([10, 40, 90], 60) == 25  # 10 + 25 + 25
    assert level([10, 40, 90], 15) == 5


def test_whole_documents_stay_in_their_order_and_a_small_source_is_kept():
    def text(source: str, kind: str, document: int) -> Text:
        return Text(text="x" * 1000, source=source, license="MIT", kind=kind, document=f"{source}/{document // 2}")

    large, small = [text("large", "docs", i) for i in range(40)], [text("small", "docs", i) for i in range(6)]
    code = [text("code", "code", i) for i in range(6)]
    found = mixed([*large, *small, *code], {"docs": 0.0165, "code": 1.0})
    assert [each for each in found if each.source != "large"] == [*small, *code]
    kept = [each for each in found if each.source == "large"]
    assert len(kept) == 10  # of 10.5 thousand characters, whole documents of two thousand
    assert kept == [each for each in large if each.document in {other.document for other in kept}]
