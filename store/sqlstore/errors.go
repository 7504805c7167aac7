package sqlstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/coatcheck/coatcheck/store"
)

// sent marks an error of a statement that had reached the driver: unless the
// database says otherwise, it may have been carried out.
type sent struct{ error }

func (e sent) Unwrap() error { return e.error }

// halfDone marks an error after the first of two statements.
type halfDone struct{ error }

func (e halfDone) Unwrap() error { return e.error }

// readError makes an error of a read fit for the caller.
func (s *Store) readError(ctx context.Context, op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCorrupt):
		return fmt.Errorf("sqlstore: %s: %w", op, err)
	}
	return fmt.Errorf("sqlstore: %s: %w", op, s.explain(ctx, err))
}

// writeError makes an error of a write fit for the caller: one that leaves the
// outcome open becomes ErrAmbiguous, and any other that is not of the contract
// ErrUnapplied.
func (s *Store) writeError(ctx context.Context, op string, err error) error {
	if err != nil && s.dialect.diagnose(err).readOnly {
		s.writes.leave()
	}
	var unanswered sent
	var half halfDone
	switch {
	case err == nil:
		return nil
	case errors.As(err, &half):
		return fmt.Errorf("sqlstore: %s: %w: %w", op, store.ErrAmbiguous, s.explain(ctx, err))
	case !errors.As(err, &unanswered):
	case s.dialect.diagnose(err).tooLarge:
		return fmt.Errorf("sqlstore: %s: %w", op, store.ErrTooLarge)
	case !s.dialect.diagnose(err).unapplied:
		return fmt.Errorf("sqlstore: %s: %w: %w", op, store.ErrAmbiguous, s.explain(ctx, err))
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrInvalid) {
		return fmt.Errorf("sqlstore: %s: %w", op, err)
	}
	not := store.ErrUnapplied
	if s.dialect.diagnose(err).refused {
		not = store.ErrRejected
	}
	return fmt.Errorf("sqlstore: %s: %w: %w", op, not, s.explain(ctx, err))
}

// explain is advise for errors of statements that hold sessions: what the
// driver says is left out if it may hold values.
func (s *Store) explain(ctx context.Context, err error) error {
	d := s.dialect.diagnose(err)
	if d.instead == nil {
		return s.advise(ctx, err)
	}
	return s.because(ctx, d.instead, d.advice)
}

// advise adds what can be done about err, and the context's error if that is
// what stopped the statement: drivers report it in words of their own.
func (s *Store) advise(ctx context.Context, err error) error {
	return s.because(ctx, err, s.dialect.diagnose(err).advice)
}

func (s *Store) because(ctx context.Context, err error, advice string) error {
	if advice != "" {
		err = fmt.Errorf("%w: %s", err, advice)
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
