"""A picture's attention chains as one web page that works without any network.

collect: run a model on a picture and gather what the page shows.
PageData: what `collect` returns.
write_page: write it as one HTML file.
page_html: the same as text.
"""

from attnchain.page.collecting import collect
from attnchain.page.data import PageData
from attnchain.page.writing import page_html, write_page

__all__ = ["PageData", "collect", "page_html", "write_page"]
