"""Reports: everything that is known of a network, or of several, on one HTML page that loads nothing.

    facts        what a report of one network contains
    comparison   what a report of several contains
    layers       the table of ops, and the details that a page shows of each part
    picture      the rows of a network, each folded and unfolded
    charts       distributions, curves and scatter plots as SVG
    highlighting specs and sources with their syntax in colour
    results      files of `bench` and of `verify --json`, each with its network
    page         the HTML

Only `page` knows HTML as a whole; it fills page.html.jinja and puts page.css and the scripts inside.
"""
