"""The look of a report, in light and in dark: one style sheet, nothing fetched from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1c1f24; --soft: #5d6673; --line: #e2e5e9;
  --series-1: #2563c9; --series-2: #c2660a; --series-3: #0a8463; --series-4: #b8347f;
  --series-5: #7048c6; --series-6: #0b7f99; --series-7: #6b7280;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1c2026; --ink: #e7eaee; --soft: #a0a9b5; --line: #313841;
    --series-1: #74a5ff; --series-2: #f0a04b; --series-3: #45c9a0; --series-4: #f183bd;
    --series-5: #b59bff; --series-6: #53c5de; --series-7: #aab2bd;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 2.5rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; }
h1 { margin: 0 0 .25rem; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere; }
.subtitle { margin: 0 0 2rem; color: var(--soft); }
section {
  margin: 0 0 1.25rem; padding: 1.25rem 1.5rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px;
}
h2 { margin: 0 0 .75rem; font-size: 1.1rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
p:last-child { margin-bottom: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .9rem .4rem 0; text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; font-size: .875rem; }
tbody tr { border-top: 1px solid var(--line); }
tbody th { font-weight: 500; }
td { overflow-wrap: anywhere; }
td.figure, th.figure { text-align: right; white-space: nowrap; }
pre { margin: 0; padding: .75rem 1rem; overflow-x: auto; background: var(--page);
  border: 1px solid var(--line); border-radius: 6px; font-size: .875rem; }
svg { display: block; width: 100%; height: auto; margin: .25rem 0 1rem; }
svg:last-child { margin-bottom: 0; }
.scroll + svg { margin-top: 1rem; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .axis { fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
@media print { body { padding: 0; } section { break-inside: avoid; } }
"""
