# shellcheck shell=bash
# Counting test cases. Each function prints "PASSED FAILED SKIPPED".

# count_tap FILE: "ok"/"not ok" lines of the Test Anything Protocol. Cases
# inside a subtest are indented and not counted again.
count_tap() {
    awk '/^ok / { if ($0 ~ /# *SKIP/) skipped++; else passed++ }
         /^not ok / { failed++ }
         /^Bail out!/ { failed++ }
         END { print passed + 0, failed + 0, skipped + 0 }' "$1"
}

# count_junit FILE: the test cases in meson's XML report, where those of a
# GoogleTest program are listed one by one.
count_junit() {
    /usr/bin/python3 - "$1" <<'PY'
import sys
import xml.etree.ElementTree as tree

passed = failed = skipped = 0
for case in tree.parse(sys.argv[1]).getroot().iter("testcase"):
    kinds = {child.tag for child in case}
    if kinds & {"failure", "error"}:
        failed += 1
    elif "skipped" in kinds or case.get("status") == "notrun":
        skipped += 1
    else:
        passed += 1
print(passed, failed, skipped)
PY
}
