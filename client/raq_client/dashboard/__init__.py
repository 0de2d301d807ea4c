"""The web dashboard: pages over a folder, in a process that loads none of raq's native code.

Every figure on a page is the answer of a command of raq, asked with `--json` in a process of its own (`ask`); every job
is such a process too (`jobs`, `runner`), which goes on when the dashboard ends. Import the modules you need; `runner`
and `raq_client.cli.worker` are programs.
"""
