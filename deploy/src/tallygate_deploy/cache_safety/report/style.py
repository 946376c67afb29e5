"""How the report looks, in light and in dark. The colours are told apart by those who don't see red or green."""

STYLE = """
:root { --page:#f6f7f9; --paper:#fff; --ink:#1b2330; --soft:#566173; --line:#d8dde5;
  --safe:#0072b2; --bad:#d55e00; --missed:#b9c4d2; --held:#e6eaf0; --budget:#8a2be2;
  --heat0:#e8f1f7; --heat1:#fde0b8; --heat2:#f8b26a; --heat3:#e8762c; --heat4:#a63603;
  --on-calm:#1b2330; --on-hot:#fff; }
@media (prefers-color-scheme: dark) {
  :root { --page:#12161c; --paper:#1a2029; --ink:#e8ecf2; --soft:#9ba7b8; --line:#313b49;
    --safe:#56b4e9; --bad:#ff8c42; --missed:#56637a; --held:#2a3340; --budget:#c79bff;
    --heat0:#1f3444; --heat1:#5c4420; --heat2:#8f5a1c; --heat3:#cc6a1f; --heat4:#ff8c42;
    --on-calm:#e8ecf2; --on-hot:#12161c; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--page); color:var(--ink); font:15px/1.5 system-ui, sans-serif; }
main { max-width:1080px; margin:0 auto; padding:24px 20px 60px; }
h1 { margin:0; font-size:30px; } h2 { margin:0 0 6px; font-size:19px; }
header p { color:var(--soft); margin:4px 0 20px; }
section { background:var(--paper); border:1px solid var(--line); border-radius:12px; padding:20px 24px; margin:18px 0;
  overflow-x:auto; }
section > p { margin:0 0 12px; color:var(--soft); max-width:75ch; }
.cards { display:grid; grid-template-columns:repeat(auto-fit, minmax(250px, 1fr)); gap:16px; background:none; border:0;
  padding:0; overflow:visible; }
.card { background:var(--paper); border:1px solid var(--line); border-top:6px solid var(--missed); border-radius:12px;
  padding:16px 20px; overflow-wrap:anywhere; }
.card.within { border-top-color:var(--safe); } .card.over { border-top-color:var(--bad); }
.card p { margin:6px 0; color:var(--soft); font-size:13px; }
.card .verdict { font-weight:600; font-size:15px; color:var(--ink); }
.card.within .verdict { color:var(--safe); } .card.over .verdict { color:var(--bad); }
.card .saved strong { display:block; font-size:34px; line-height:1.15; color:var(--ink); }
dl { display:grid; grid-template-columns:1fr 1fr; gap:8px 16px; margin:12px 0; }
dt { color:var(--soft); font-size:12px; } dd { margin:0; font-weight:600; }
svg { width:100%; min-width:640px; height:auto; display:block; }
text { fill:var(--ink); font:12px system-ui, sans-serif; }
.value { font-weight:600; paint-order:stroke; stroke:var(--paper); stroke-width:4px; }
.tier { font-weight:700; font-size:14px; } .family { font-weight:600; fill:var(--soft); } .tick { fill:var(--soft); }
.safe { fill:var(--safe); } .missed { fill:var(--missed); } .held { fill:var(--held); } rect.bad { fill:url(#hatch); }
pattern .bad { fill:var(--bad); } .hatch { stroke:var(--paper); stroke-width:1.2; }
.grid { stroke:var(--line); fill:none; }
.budget { stroke:var(--budget); stroke-width:2; stroke-dasharray:6 4; fill:none; }
.budget-label { fill:var(--budget); font-weight:600; }
.whisker { stroke-width:2.5; fill:none; stroke:var(--safe); } .seen { fill:var(--safe); }
.over .whisker { stroke:var(--bad); } .over .seen { fill:var(--bad); }
.heat0 { fill:var(--heat0); } .heat1 { fill:var(--heat1); } .heat2 { fill:var(--heat2); } .heat3 { fill:var(--heat3); }
.heat4 { fill:var(--heat4); } .cell { fill:var(--on-calm); } .on-heat4 { fill:var(--on-hot); font-weight:700; }
.legend { display:flex; flex-wrap:wrap; gap:6px 22px; list-style:none; padding:0; margin:0 0 10px; font-size:13px; }
.key { display:inline-block; width:14px; height:14px; border-radius:3px; margin-right:7px; vertical-align:-2px; }
.key.safe { background:var(--safe); } .key.missed { background:var(--missed); }
.key.held { background:var(--held); outline:1px solid var(--line); }
.key.bad { background:repeating-linear-gradient(135deg, var(--bad) 0 4px, var(--paper) 4px 5px); }
table { border-collapse:collapse; width:100%; font-size:13px; } summary { cursor:pointer; }
th, td { text-align:left; padding:5px 10px; border-bottom:1px solid var(--line); vertical-align:top; }
.numbers td:nth-child(n+4) { font-variant-numeric:tabular-nums; }
footer { color:var(--soft); font-size:12px; margin:24px 4px; }
"""
