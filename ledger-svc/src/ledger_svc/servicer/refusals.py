"""How each refusal of the domain looks to callers, whichever servicer they asked."""

from __future__ import annotations

from grpc import StatusCode

from ledger_svc.domain import errors
from meshkit.errors import ErrorTable
from tallygate.common.v1.errors_pb2 import ErrorReason

ERRORS: ErrorTable = {
    errors.InvalidRequest: (StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_REQUEST),
    errors.NotConfigured: (StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_REQUEST),
    errors.NotFound: (StatusCode.NOT_FOUND, ErrorReason.ERROR_REASON_NOT_FOUND),
    errors.InvalidApiKey: (StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_INVALID_API_KEY),
    errors.ApiKeyRevoked: (StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_API_KEY_REVOKED),
    errors.ModelNotAllowed: (StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_MODEL_NOT_ALLOWED),
    errors.InsufficientBalance: (StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE),
    errors.BudgetExceeded: (StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_BUDGET_EXCEEDED),
    errors.IdempotencyConflict: (StatusCode.ALREADY_EXISTS, ErrorReason.ERROR_REASON_IDEMPOTENCY_CONFLICT),
    errors.HoldClosed: (StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_HOLD_CLOSED),
    errors.InvalidNotice: (StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_REQUEST),
    errors.PaymentsNotConfigured: (
        StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_PAYMENTS_NOT_CONFIGURED,
    ),
    errors.ProviderRefused: (StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_UPSTREAM_REJECTED),
    errors.ProviderFailed: (StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UPSTREAM_ERROR),
    errors.LedgerUnavailable: (StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
    errors.Standby: (StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
    errors.QueueFull: (StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
}
"""Every refusal of the domain, as callers see it."""
