"""Manifests in the ways that people lay them out; each with at least one comment or quirk to lose."""

STYLES = {
    "two spaces": "version: 1\nproject: digi\napps:\n  lernmi: {} # the pilot\n  beep_boop: {stores: [tables]}\n",
    "four spaces": (
        "version: 1\nproject: digi\n\napps:\n    # first of all\n    lernmi:\n        tables:\n"
        "            connection_limit: 5\n\n    # and the other\n    beep_boop:\n        stores:\n        -   tables\n"
        "        -   cache # fast\n\n# the end\n"
    ),
    "no newline at the end": "version: 1\nproject: digi\napps:\n  lernmi: {}",
    "null at the end": "version: 1\nproject: digi\napps:\n  lernmi:",
    "comment at the end": "version: 1\nproject: digi\napps:\n  lernmi: {}\n  # more to come",
    "windows": "version: 1\r\nproject: digi\r\napps:\r\n  lernmi: {} # one\r\n  beep_boop:\r\ndeploy: {}\r\n",
    "byte order mark": "\ufeffversion: 1\nproject: digi\napps:\n  lernmi: {}\n",
    "empty flow": "version: 1\nproject: digi\napps: {} # none yet\ndeploy: {}\n",
    "empty flow with a space": "version: 1\nproject: digi\napps: { }\n",
    "nothing": "version: 1\nproject: digi\napps:\n",
    "nothing with a comment": "version: 1\nproject: digi\napps: # none yet\n  # one day\ndeploy: {}\n",
    "nothing and no newline": "version: 1\nproject: digi\napps:",
    "flow": "version: 1\nproject: digi\napps: {lernmi: {}, beep_boop: {stores: [tables]}} # all\n",
    "flow with a comma": "version: 1\nproject: digi\napps: {lernmi: {},}\n",
    "flow over lines": "version: 1\nproject: digi\napps: {\n  lernmi: {}, # one\n  beep_boop: {} # two\n}\n",
    "flow over lines with a comma": "version: 1\nproject: digi\napps: {\n  lernmi: {}, # 1\n  beep_boop: {}, # 2\n}\n",
    "flow that closes on the line": "version: 1\nproject: digi\napps: {lernmi: {},\n       beep_boop: {}}\n",
    "all flow": "{version: 1, project: digi, apps: {lernmi: {}}}\n",
    "quoted": "'version': 1\n\"project\": 'digi'\n\"apps\":\n  'aa': {labels: {\"a: b\": '# d'}}\n  \"beep\": {}\n",
    "markers": "%YAML 1.1\n---\n# hello\nversion: 1\nproject: digi\napps:\n  lernmi: {}\n...\n",
    "apps first": "apps:\n  lernmi:\n    tables: {connection_limit: 5}\n\n\n# the head\nversion: 1\nproject: digi\n",
    "anchors": "version: 1\nproject: digi\napps:\n  lernmi: &base {stores: [tables]}\n  beep_boop: *base # same\n",
    "anchors in flow": "version: 1\nproject: digi\napps: {aa: &base {stores: [tables]}, bb: *base }\n",
    "anchors in a list": (
        "version: 1\nproject: digi\napps:\n  aa:\n    stores:\n    - &s tables\n"
        "  bb:\n    stores:\n    - cache\n    - *s\n# end\n"
    ),
    "block text": (
        "version: 1\nproject: digi\napps:\n  lernmi:\n    labels:\n      note: |\n        one\n        two\n\n"
        "      more: >-\n        folded\n        text\n\n# after\ndeploy: {}\n"
    ),
    "text over lines": "version: 1\nproject: digi\napps:\n  aa:\n    labels: {note: 'one\n      two'}\n    # in\n#\n",
    "indented": "  version: 1\n  project: digi\n  apps:\n    lernmi: {}\n",
    "unicode": "# für später ✓ 😀\nversion: 1\nproject: digi\napps:\n  lernmi: {labels: {ä😀: ö}} # 😀\n",
}

WITHOUT_APPS = {
    "no apps": "version: 1\nproject: digi\n# the end\n",
    "no apps, no newline": "version: 1\nproject: digi",
    "no apps, markers": "---\nversion: 1\nproject: digi\n...\n",
    "no apps, flow": "{version: 1, project: digi}\n",
}
