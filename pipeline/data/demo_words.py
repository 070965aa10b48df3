"""The vocabulary of the synthetic demo catalogue: themes, their product types, invented brands."""

from __future__ import annotations

THEMES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    # theme: (product types in the order tastes move through them, materials, uses)
    "Camping": (
        ("tent", "sleeping bag", "camp stove", "lantern"),
        ("nylon", "canvas", "titanium"),
        ("backpacking", "family camping", "winter nights"),
    ),
    "Baking": (
        ("cake pan", "rolling pin", "piping bag set", "cookie cutter set"),
        ("silicone", "nonstick steel", "beechwood"),
        ("birthday cakes", "sourdough bread", "holiday cookies"),
    ),
    "Aquarium": (
        ("fish tank", "water filter", "aquarium heater", "gravel bag"),
        ("glass", "acrylic", "quartz"),
        ("tropical fish", "betta fish", "planted tanks"),
    ),
    "Cycling": (
        ("bike helmet", "cycling gloves", "bicycle pump", "bike light"),
        ("carbon", "gel padded", "aluminum"),
        ("road rides", "mountain trails", "daily commuting"),
    ),
    "Guitar": (
        ("acoustic guitar", "guitar strings", "capo", "guitar stand"),
        ("spruce", "phosphor bronze", "rosewood"),
        ("beginners", "fingerstyle playing", "stage concerts"),
    ),
    "Painting": (
        ("watercolor set", "paint brush set", "stretched canvas", "easel"),
        ("sable hair", "cotton", "pine"),
        ("landscape painting", "portraits", "art students"),
    ),
    "Yoga": (
        ("yoga mat", "yoga block", "stretching strap", "meditation cushion"),
        ("cork", "natural rubber", "organic cotton"),
        ("hot yoga", "pilates", "morning meditation"),
    ),
    "Coffee": (
        ("coffee grinder", "pour over dripper", "milk frother", "espresso cup set"),
        ("ceramic", "stainless steel", "borosilicate glass"),
        ("espresso", "cold brew", "latte art"),
    ),
    "Gardening": (
        ("pruning shears", "seed tray", "garden hose", "plant pot"),
        ("bamboo", "terracotta", "galvanized steel"),
        ("vegetable beds", "rose bushes", "balcony herbs"),
    ),
    "Dog": (
        ("dog leash", "dog harness", "chew toy", "dog bed"),
        ("leather", "rope", "plush"),
        ("puppies", "large breeds", "evening walks"),
    ),
    "Cat": (
        ("scratching post", "cat tunnel", "litter box", "catnip mouse"),
        ("sisal", "felt", "cardboard"),
        ("kittens", "indoor cats", "senior cats"),
    ),
    "Fishing": (
        ("fishing rod", "spinning reel", "tackle box", "fishing lure"),
        ("graphite", "braided", "fiberglass"),
        ("bass fishing", "fly fishing", "ice fishing"),
    ),
    "Sewing": (
        ("sewing machine", "thread spool set", "fabric scissors", "pincushion"),
        ("polyester", "linen", "velvet"),
        ("quilting", "dressmaking", "embroidery"),
    ),
    "Baby": (
        ("baby bottle", "pacifier", "swaddle blanket", "teething ring"),
        ("muslin", "soft silicone", "BPA free"),
        ("newborns", "toddlers", "night feeding"),
    ),
    "Office": (
        ("desk organizer", "stapler", "gel pen set", "file folder"),
        ("mesh metal", "recycled paper", "oak"),
        ("home offices", "students", "meeting notes"),
    ),
    "Gaming": (
        ("gaming mouse", "mechanical keyboard", "gaming headset", "mouse pad"),
        ("RGB", "wireless", "braided cable"),
        ("esports", "strategy games", "streaming"),
    ),
    "Photography": (
        ("camera tripod", "lens filter", "camera bag", "photo backdrop"),
        ("carbon fiber", "optical glass", "waterproof"),
        ("travel photos", "studio portraits", "night sky photography"),
    ),
    "Skincare": (
        ("face moisturizer", "cleansing foam", "sunscreen lotion", "eye cream"),
        ("aloe vera", "shea butter", "vitamin C"),
        ("dry skin", "sensitive skin", "oily skin"),
    ),
    "Puzzle": (
        ("jigsaw puzzle", "wooden brain teaser", "puzzle mat", "speed cube"),
        ("birch wood", "thick cardboard", "foam"),
        ("family evenings", "curious children", "experts"),
    ),
    "Trains": (
        ("model locomotive", "toy train track", "railway bridge", "station building kit"),
        ("die cast", "wooden", "HO scale"),
        ("railway collectors", "preschoolers", "tabletop layouts"),
    ),
    "Running": (
        ("running shoes", "running belt", "compression socks", "sports watch"),
        ("breathable mesh", "merino wool", "reflective"),
        ("marathons", "trail running", "treadmill training"),
    ),
    "Woodworking": (
        ("hand plane", "chisel set", "wood clamp", "sanding block"),
        ("cast iron", "hardened steel", "ash handle"),
        ("cabinet making", "wood carving", "furniture repair"),
    ),
    "Swimming": (
        ("swim goggles", "swim cap", "kickboard", "pool towel"),
        ("latex", "anti fog", "microfiber"),
        ("lap swimming", "children learning to swim", "open water"),
    ),
    "Candles": (
        ("scented candle", "candle holder", "wax melt", "incense burner"),
        ("soy wax", "beeswax", "brass"),
        ("relaxing baths", "dinner tables", "autumn evenings"),
    ),
}
"""Twenty-four tastes. What a title says about its item is what drives behaviour."""

BRANDS = (
    "Norvika", "Talumo", "Brightfen", "Oakmere", "Zelquin", "Pellaro", "Hartwyn", "Curamint",
    "Dovelle", "Ferrowen", "Glimsa", "Harboro", "Istrello", "Jundara", "Kestwick", "Lumenova",
    "Mirawell", "Nettleby", "Orvanne", "Pinecrow", "Quillbay", "Rostella", "Sunderly", "Tovanka",
    "Umberline", "Vexaro", "Wrenfield", "Xandrel", "Yarrowby", "Zephyrol",
)  # fmt: skip
"""Invented names."""

COLOURS = (
    "black", "white", "navy blue", "forest green", "red", "yellow", "grey", "purple", "orange",
    "turquoise",
)  # fmt: skip

SIZES = ("small", "large", "compact", "extra long", '12"', "set of 2", "travel size", "deluxe")
