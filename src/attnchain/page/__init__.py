"""A picture's attention chains as one web page that works without any network.

collect: run a model on a picture and gather what the page shows.
PageData: what `collect` returns.
Page: the same as a result that says and writes itself.
write_page: write it as one HTML file.
TextPage: a text's chains as such a page.
WordsPage: words in a picture as such a page.
page_html: the same as text.
"""

from attnchain.page.collecting import collect
from attnchain.page.data import PageData
from attnchain.page.serving import claim_port, page_server
from attnchain.page.text_page import TextPage
from attnchain.page.words_page import WordsPage
from attnchain.page.writing import Page, page_html, write_page

__all__ = [
    "Page",
    "PageData",
    "TextPage",
    "WordsPage",
    "claim_port",
    "collect",
    "page_html",
    "page_server",
    "write_page",
]
