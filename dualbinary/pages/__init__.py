"""Pages of HTML with pictures, each one file that loads nothing from elsewhere: for reports and inspections.

drawing.py   pictures: SVG by matplotlib, in one style
page.py      templates: base.html is a page, parts.html has tables and pictures
"""
