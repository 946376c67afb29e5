"""Words that prompts are filled with, and that mutators put in each other's place."""

from __future__ import annotations

KINDS: dict[str, tuple[str, ...]] = {
    "city": ("Lisbon", "Oslo", "Nairobi", "Toronto", "Osaka", "Lima", "Vienna", "Perth"),
    "country": ("Portugal", "Norway", "Kenya", "Canada", "Japan", "Peru", "Austria", "Australia"),
    "company": ("Contoso", "Initech", "Globex", "Umbrella", "Hooli", "Acme", "Soylent", "Vandelay"),
    "person": ("Maria", "Jonas", "Amina", "Pierre", "Kenji", "Lucia", "Franz", "Chloe"),
    "drug": ("ibuprofen", "paracetamol", "amoxicillin", "metformin", "omeprazole", "aspirin", "sertraline", "warfarin"),
    "software": ("PostgreSQL", "MySQL", "Redis", "MongoDB", "Kafka", "RabbitMQ", "Nginx", "SQLite"),
    "language": ("Python", "Java", "Rust", "Ruby", "Kotlin", "Swift", "Haskell", "Perl"),
    "metal": ("copper", "iron", "aluminium", "nickel", "zinc", "silver", "lead", "tin"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": ("January", "February", "April", "June", "July", "September", "October", "November"),
    "function": ("getUser", "parseConfig", "loadIndex", "sendInvoice", "openSession", "mergeRows", "hashToken"),
    "variable": ("user_id", "retry_count", "max_tokens", "row_limit", "cache_key", "page_size", "start_time"),
    "amount": ("12", "25", "40", "75", "130", "360", "1500", "2400"),
    "small": ("2", "3", "4", "5", "6", "7", "8", "9"),
    "year": ("1998", "2003", "2008", "2011", "2014", "2017", "2019", "2022"),
}  # fmt: skip
"""By kind; `{city}` in a prompt is filled with one of them."""

ENTITY_KINDS = ("city", "country", "company", "person", "drug", "software", "language", "metal")
"""Kinds that name something or somebody."""

POLARITY = (
    ("enable", "disable"), ("allow", "block"), ("include", "exclude"), ("accept", "reject"), ("lock", "unlock"),
    ("subscribe to", "unsubscribe from"), ("with", "without"), ("advantages", "disadvantages"), ("most", "least"),
    ("best", "worst"), ("must", "must not"), ("should", "should not"), ("are", "are not"), ("does", "does not"),
    ("always", "never"), ("possible", "impossible"), ("legal", "illegal"), ("increase", "decrease"),
    ("accelerate", "slow down"), ("required", "optional"), ("Explain", "Do not explain"), ("Delete", "Do not delete"),
)  # fmt: skip
"""Words and what denies them. A denial is tried both ways round."""

DIRECTION = (
    ("before", "after"), ("ascending", "descending"), ("import", "export"), ("upload", "download"), ("above", "below"),
    ("older", "newer"), ("oldest", "newest"), ("sender", "recipient"), ("left", "right"), ("higher", "lower"),
    ("more", "less"), ("longer", "shorter"), ("encrypt", "decrypt"), ("first", "last"), ("into", "out of"),
)  # fmt: skip
"""Words and their opposites in an order, on a line, or in time."""

UNITS = (
    ("km", "miles"), ("kg", "pounds"), ("mg", "g"), ("ml", "l"), ("°C", "°F"), ("hours", "minutes"),
    ("days", "weeks"), ("euros", "dollars"),
    ("months", "years"), ("USD", "EUR"), ("percent", "percentage points"), ("MB", "GB"), ("Mb", "MB"),
    ("mW", "MW"), ("meters", "feet"), ("seconds", "milliseconds"),
)  # fmt: skip
"""Units of one kind; some differ in the case of a letter only."""

SCOPE = (
    ("my", "my team's"), ("all users", "active users"), ("this repository", "every repository"),
    ("in production", "in staging"), ("for adults", "for children"), ("at home", "abroad"), ("on mobile", "on desktop"),
    ("free plan", "enterprise plan"), ("for beginners", "for experts"), ("first paragraph", "whole text"),
    ("per user", "per organisation"), ("per month", "per year"), ("in the EU", "in the US"), ("every row", "one row"),
    ("a household", "a factory"), ("for one person", "for a family"),
)  # fmt: skip
"""How far a question goes."""

FORMATS = (
    "as a JSON object", "as a YAML document", "as a Markdown table", "as a bullet list", "as a CSV file",
    "in one sentence", "as a numbered list", "as plain text",
)  # fmt: skip
LANGUAGES = ("English", "French", "German", "Spanish", "Japanese", "Polish", "Swahili", "Hindi")
"""That an answer may be asked for in."""
