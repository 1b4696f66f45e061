"""Documents that are meant to cost a finder more than their length: a unit, repeated."""

from __future__ import annotations

from imageload.documents.kinds import KINDS

UNITS = [
    "![", "[", "]", "![]", "![a](", "[a](b", "![a][", "![[", "[[", "[[a](b)", "![![a](b)](c)",
    "[a]: b\n", "[a\n", "[a]: <", "[a](<", "![a](b \"", "![a](b '", "![a](b (", "![a](b =1",
    "![](a b", "`", "``a`", "~~~\n", "> ", "- ", "* a\n", "  - a\n", "1. ", "|a",
    "|a|b|\n|-|-|\n", "#", "\\", "&", "&amp", "_", "*a_ ", "(", ")", "()", "\t", " ", "\n", "\r",
    "\0", "'", "\"", "<", "<img ", "<img src=", "<img src='", "<img>", "<a ",
    "<a href=\"http://a.e/b.png\">", "</", "<!--", "<!-- ", "<![CDATA[", "<?", "<div>",
    "<div>\n\n", "<pre>", "<picture>", "<script>", "<style>", "<img a=b ", "<img srcset='a 1x, ",
    "<p style='url(", "<base href=a>", "<b>\n", "</p>", "http://a.e/b.png ", "http://a.e/",
    "http://a.e/a,", "http://a.e/b.png,", "http://a.e/(", "http://a.e/[", "https://", "http",
    "http://a.e/b.png\u770b", "'http://a.e/", "a\u770b", "[img]", "[/img]", "[img]http://a.e/b",
    "[img=", "[img a=b ", "[code]", "[/code]", "[url=", ",", ";", ";\n", ",,\n", "a,b\n",
    "a,http://a.e/b.png\n", "\"\",", "\"a", "a,\"b\"\"c\"\n", "|", "\t,", ", ", " ;", "; ", "# ",
    "#\n", "{", "{}", "}", "[]", "[{", "{\"a\":", "{\"image\":\"", "{\"a\":\"\\", "\"a\":",
    "\\u0041", "\\/", "//", "// ", "/*", "*/", "url(", "url('", "{{", "}}",
    "{{http://a.e/b.png?1 ", "{{http://", "!http://a.e/b", "!", "!(", "!{", "[[http://a",
    "[[File:", "<nowiki>", "</nowiki>", "{code}", "{code:", "%%", "|image=http://a",
    "#+begin_src\n", "#+end_src\n", "=a", "= a", " =a= ", "@@html:", "#+html:\n", "image::",
    "image:a[", "----\n", "....\n", "++++\n", "----\n-----\n", "video::a[", "video::a[poster=",
    ":imagesdir: http://a\n", "link=", "\ufeff", "\u200b", "\ud83d", "http://a.e/b.png?a=&amp;",
    "<img src=http://a.e/b.png>", "![](http://a.e/b.png)", "<rss><image><url>",
    "* ![](x)\n", "- [ ] a b\n", "--\n", "a\n\n", "![a](b)\n", "[a]: http://a.e/b.png\n", "<a/>",
    "<p a>", "<p style='url(a)'>", "<style>a{b:url('c')}</style>", "<img src=a>", "<http://a>\n",
    "<x y='http://a.e/b.png'>", "//a\n", "&a;,", "a,[img]b[/img]\n", "a,a.png\n",
    "# http://a.e/b.png\n", "- ![](http://a.e/b.png)\n", "{\"a\":\"<b/>\"}", "\"![](/)\",",
    "\"\\/\",", "a\n=\n", ">\n", "`a`",
]  # fmt: skip


def hostile(unit: str, size: int) -> str:
    """About `size` characters of the unit, and an image, without which finders skip much of it."""
    return unit * (size // len(unit)) + "\n\n![](http://a.e/b.png)\n"


def cases() -> list[tuple[str, str]]:
    """Each kind with each unit."""
    return [(kind, unit) for kind in KINDS for unit in UNITS]
